// What a block of the fused forward on Hopper works on, tile after tile: where the queries of its
// consumers lie, and the walk over the key tiles of their box.
#pragma once

#include "../../common/hopper_params.cuh"
#include "../../geometry/column_bits.cuh"

namespace cupyna {

// One tile of queries of one head of one batch entry.
struct TileSm90 {
  AxisTile own[kAxes];
  int head, batch;

  // Tiles of one head are neighbors: blocks that run together share its keys in L2.
  __device__ TileSm90(const HopperParams& params, int item) {
    const bool is_short = item >= params.shorts.first_item;
    const int tiles = is_short ? params.shorts.tiles : params.tiles;
    if (is_short) item -= params.shorts.first_item;
    const int plane = item / tiles;
    int index = item - plane * tiles;
    // Tiles at borders and of causal windows differ: so blocks that took long ones get quick ones.
    if (params.reversed_planes >> (plane & 1) & 1) index = tiles - 1 - index;
    if (params.rotation != 0) index = (index + plane % tiles * params.rotation) % tiles;
    batch = plane / params.heads;
    head = plane - batch * params.heads;
#pragma unroll
    for (int a = kAxes - 1; a >= 0; --a) {
      const bool is_cut = is_short && a == params.split_axis;
      const int row_tiles = is_cut ? params.shorts.row_tiles : params.tile[a].row_tiles;
      const int rest = index / row_tiles;
      own[a] = is_cut ? short_tile(params, index - rest * row_tiles)
                      : tiling(params, a).tile(index - rest * row_tiles, Side::kQuery);
      index = rest;
    }
  }

  static __device__ __forceinline__ AxisTiling tiling(const HopperParams& params, int a) {
    const AxisParams& axis = params.axis[a];
    return AxisTiling{axis.length,   axis.kernel_size,    axis.stride,
                      axis.dilation, axis.is_causal != 0, params.tile[a].row_extent};
  }

  __device__ __forceinline__ Line line(const HopperParams& params, int a) const {
    return tiling(params, a).line(own[a].group);
  }

  // First position of a consumer's box of rows.
  __device__ __forceinline__ Coordinate corner(const HopperParams& params, int consumer) const {
    return Coordinate{own[0].begin + split_offset(params, 0, consumer),
                      own[1].begin + split_offset(params, 1, consumer),
                      own[2].begin + split_offset(params, 2, consumer)};
  }

  // Position of a consumer's row; rows past the end of a cut tile repeat its last ones.
  __device__ __forceinline__ Coordinate position_of(const HopperParams& params, int consumer,
                                                    int row, bool& is_real) const {
    const int log2_y = params.tile[1].rows_log2, log2_z = params.tile[2].rows_log2;
    const Coordinate first = corner(params, consumer);
    const int x = first.x + (row >> (log2_y + log2_z));
    const int y = first.y + (row >> log2_z & ((1 << log2_y) - 1));
    const int z = first.z + (row & ((1 << log2_z) - 1));
    is_real = x < own[0].end && y < own[1].end && z < own[2].end;
    return Coordinate{min_of(x, own[0].end - 1), min_of(y, own[1].end - 1),
                      min_of(z, own[2].end - 1)};
  }

  __device__ __forceinline__ Coordinate token_of(const HopperParams& params,
                                                 const Coordinate& at) const {
    return Coordinate{own[0].group + at.x * params.axis[0].dilation,
                      own[1].group + at.y * params.axis[1].dilation,
                      own[2].group + at.z * params.axis[2].dilation};
  }

 private:
  // Along the axis that consumers divide, which is not dilated then.
  static __device__ __forceinline__ AxisTile short_tile(const HopperParams& params, int index) {
    AxisTiling along = tiling(params, params.split_axis);
    along.extent = params.shorts.row_extent;
    return along.tile_from(0, params.shorts.begin + index * along.extent, Side::kQuery);
  }

  static __device__ __forceinline__ int split_offset(const HopperParams& params, int a,
                                                     int consumer) {
    return params.split_axis == a ? consumer << params.tile[a].rows_log2 : 0;
  }
};

// The walk over key tiles. The axis that consumers split is the outermost: the key tiles that one
// of them needs follow each other.
struct WalkSm90 {
  Coordinate begin;   // corner of the box
  Coordinate extent;  // of a key tile
  int split_axis;
  int outer_count, middle_count, inner_count;
  int outer, middle, inner;

  __device__ WalkSm90(const HopperParams& params, const TileSm90& tile)
      : begin{tile.own[0].box_begin, tile.own[1].box_begin, tile.own[2].box_begin},
        extent{params.tile[0].key_extent, params.tile[1].key_extent, params.tile[2].key_extent},
        split_axis(params.split_axis),
        outer(0),
        middle(0),
        inner(0) {
    const int x = tile.own[0].box_tiles(extent.x), y = tile.own[1].box_tiles(extent.y);
    const int z = tile.own[2].box_tiles(extent.z);
    outer_count = split_axis == 0 ? x : split_axis == 1 ? y : z;
    middle_count = split_axis == 0 ? y : x;
    inner_count = split_axis == 2 ? y : z;
  }

  __device__ __forceinline__ int per_outer() const { return middle_count * inner_count; }

  __device__ __forceinline__ void advance() {
    if (++inner < inner_count) return;
    inner = 0;
    if (++middle < middle_count) return;
    middle = 0;
    ++outer;
  }

  // First position of the key tile.
  __device__ __forceinline__ Coordinate origin() const {
    const int x = split_axis == 0 ? outer : middle;
    const int y = split_axis == 1 ? outer : split_axis == 0 ? middle : inner;
    const int z = split_axis == 2 ? outer : inner;
    return Coordinate{begin.x + x * extent.x, begin.y + y * extent.y, begin.z + z * extent.z};
  }

  // The outer steps whose key tiles meet an interval along the split axis.
  __device__ __forceinline__ Interval steps(const Interval& along) const {
    const int first = split_axis == 0 ? begin.x : split_axis == 1 ? begin.y : begin.z;
    const int size = split_axis == 0 ? extent.x : split_axis == 1 ? extent.y : extent.z;
    return Interval{(along.begin - first) / size, (along.end - first + size - 1) / size};
  }
};

// The part of a walk that one consumer's rows need, in key tiles.
struct ShareSm90 {
  int before, count, after;

  __device__ ShareSm90(const HopperParams& params, const TileSm90& tile, const WalkSm90& walk,
                       int consumer) {
    const int axis = params.split_axis;
    const int own_rows = 1 << params.tile[axis].rows_log2;
    const int group = axis == 0   ? tile.own[0].group
                      : axis == 1 ? tile.own[1].group
                                  : tile.own[2].group;
    const int begin = axis == 0   ? tile.own[0].begin
                      : axis == 1 ? tile.own[1].begin
                                  : tile.own[2].begin;
    const int end = axis == 0 ? tile.own[0].end : axis == 1 ? tile.own[1].end : tile.own[2].end;
    const int first = begin + consumer * own_rows;
    const int last = min_of(first + own_rows, end) - 1;
    Interval steps{0, 0};
    if (first <= last) {
      const Line line = TileSm90::tiling(params, axis).line(group);
      steps = walk.steps(Interval{line.window_begin(first), line.window_end(last)});
    }
    before = steps.begin * walk.per_outer();
    count = (steps.end - steps.begin) * walk.per_outer();
    after = (walk.outer_count - steps.end) * walk.per_outer();
  }
};

}  // namespace cupyna
