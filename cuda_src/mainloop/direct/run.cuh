// What one group of lanes works on: a run of neighboring rows along the last axis, for one head.
//
// Rows are queries and columns keys, or the reverse in the pass over keys. Groups of a warp take
// neighboring heads of one run, so that their loads lie together, and the warps of a block
// neighboring runs, which share columns in the first-level cache.
#pragma once

#include "../../common/direct_params.cuh"
#include "../../common/warp.cuh"
#include "../../geometry/mask.cuh"
#include "../../geometry/tile.cuh"

namespace cupyna {

// Along one axis: the dilation group, the first row, and the columns that the rows meet.
struct DirectExtent {
  int group, row;
  int begin, end;
  int steps;  // columns, the same in all of a warp

  // A place among the columns; groups with fewer than another one of the warp repeat their last.
  __device__ __forceinline__ int column(int step) const { return min_of(begin + step, end - 1); }
};

// It waits in shared memory while registers are for products.
struct DirectRun {
  DirectExtent axis[kAxes];
  int count;  // rows, none where the group of lanes has no run
  int head;   // of the tile's

  // Token of the first row along an axis.
  __device__ __forceinline__ int token(const AxisParams (&of)[kAxes], int i) const {
    return axis[i].group + axis[i].row * of[i].dilation;
  }
};

template <Side kSide, int kRows>
struct DirectPlaces {
  const AttentionParams& params;
  const DirectGrid& grid;
  unsigned tile;   // what is left of the block's tile,
  unsigned local;  // and of the place in it
  bool is_real = true;

  __device__ DirectPlaces(const AttentionParams& params, const DirectGrid& grid, unsigned group)
      : params(params), grid(grid), tile(blockIdx.x), local(group >> grid.heads_log2) {}

  // The run of a group of lanes, and the columns along z that the lane's own row of it meets.
  __device__ __forceinline__ DirectRun find(unsigned group, int own_row, Interval& own) {
    DirectRun run;
    const Line z = place(2, kRows, run.axis[2]);
    const Line y = place(1, 1, run.axis[1]);
    const Line x = place(0, 1, run.axis[0]);
    const int first = run.axis[2].row;
    run.head = group & ((1 << grid.heads_log2) - 1);
    run.count = is_real ? min_of(kRows, z.length - first) : 0;
    meet(x, run.axis[0], run.axis[0].row);
    meet(y, run.axis[1], run.axis[1].row);
    meet(z, run.axis[2], first + max_of(run.count - 1, 0));
    const int row = first + own_row;
    own = Interval{first_column(z, row), own_row < run.count ? past_column(z, row) : 0};
    return run;
  }

 private:
  // Takes one axis off. A group past the end works on the first row, for nobody: the lanes of a
  // warp stay together.
  __device__ __forceinline__ Line place(int index, int rows, DirectExtent& extent) {
    const AxisParams& axis = params.axis[index];
    const DirectAxis& along = grid.axis[index];
    unsigned at = 0;
    if (along.tiles > 1) {
      const unsigned rest = tile / along.tiles;
      at = tile - rest * along.tiles;
      tile = rest;
    }
    unsigned run = (at << along.tile_log2) + (local & ((1 << along.tile_log2) - 1));
    local >>= along.tile_log2;
    if (run >= along.runs) {
      is_real = false;
      run = 0;
    }
    // The groups that are one token longer come first.
    unsigned group = 0;
    if (axis.dilation > 1) {
      const bool is_longer = run < along.longer_runs;
      const unsigned of_group = is_longer ? along.runs_of_longer : along.runs_of_shorter;
      if (!is_longer) run -= along.longer_runs;
      group = run / of_group;
      run -= group * of_group;
      if (!is_longer) group += along.longer;
    }
    extent.group = group;
    extent.row = run * rows;
    return Line{group_length(axis.length, axis.dilation, group), axis.kernel_size, axis.stride,
                axis.is_causal != 0};
  }

  static __device__ __forceinline__ void meet(const Line& line, DirectExtent& extent, int last) {
    extent.begin = first_column(line, extent.row);
    extent.end = past_column(line, last);
    extent.steps = warp_max(extent.end - extent.begin);
  }

  static __device__ __forceinline__ int first_column(const Line& line, int row) {
    return kSide == Side::kQuery ? line.window_begin(row) : line.query_begin(row);
  }
  static __device__ __forceinline__ int past_column(const Line& line, int row) {
    return kSide == Side::kQuery ? line.window_end(row) : line.query_end(row);
  }
};

}  // namespace cupyna
