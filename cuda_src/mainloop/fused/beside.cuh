// Tiles of keys beside the windows, and of the queries that meet them: every query sees every key.
//
// The keys lie along the last axis. Blocks that keep queries walk over all keys; blocks that keep
// keys walk over a slice of the queries, so that there are enough of them, and their sums are added
// up afterwards.
#pragma once

#include "../../common/attention_params.cuh"
#include "../../geometry/box.cuh"

namespace cupyna {

// A tile of queries as it lies in the grid, with all keys for its box.
__device__ __forceinline__ AxisTile queries_beside(const BesideGradientParams& params,
                                                   const AxisTile& tile, int axis) {
  AxisTile found = tile;
  found.box_begin = 0;
  found.box_end = axis == kAxes - 1 ? params.more_tokens : 1;
  return found;
}

// A tile of keys, with a slice of the queries for its box; the tiles of a slice follow each other.
__device__ __forceinline__ AxisTile keys_beside(const BesideGradientParams& params, int rows,
                                                int axis) {
  const int tiles = params.tile[kAxes - 1].row_tiles;
  int slice = blockIdx.x / tiles;
  for (int i = kAxes - 1; i > axis; --i) slice /= params.slice[i].slices;
  const SliceAxis& along = params.slice[axis];
  const bool is_last = axis == kAxes - 1;
  AxisTile found = {};
  found.begin = is_last ? static_cast<int>(blockIdx.x % tiles) * rows : 0;
  found.end = is_last ? min_of(found.begin + rows, params.more_tokens) : 1;
  found.box_begin = slice % along.slices * along.extent;
  found.box_end = min_of(found.box_begin + along.extent, params.axis[axis].length);
  return found;
}

}  // namespace cupyna
