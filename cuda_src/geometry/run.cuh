// What one group of lanes works on: a run of consecutive tokens along the last axis.
//
// Tokens of a run have the same place along the other axes, hence the same windows there, and
// neighboring windows along the last axis. Whatever one of them reads, the others mostly need.
#pragma once

#include "../common/blocks.cuh"
#include "window.cuh"

namespace cupyna {

// A token along one axis: its dilation group, its position there, and the group's line.
struct Place {
  Line line;
  int group;
  int position;
  int dilation;

  __device__ __forceinline__ int token(int at) const { return group + at * dilation; }
};

__device__ __forceinline__ Line line_of(const AxisParams& axis, int group) {
  return Line{group_length(axis.length, axis.dilation, group), axis.kernel_size, axis.stride,
              axis.is_causal != 0};
}

__device__ __forceinline__ Place place_of(const AxisParams& axis, int token) {
  const int position = axis.dilation == 1 ? token : token / axis.dilation;
  const int group = token - position * axis.dilation;
  return Place{line_of(axis, group), group, position, axis.dilation};
}

struct Run {
  Place x, y, z;  // z is the run's first token
  int count;      // tokens of the run, at most kRun
  int index;      // of the run
  int block;      // of channels
  bool is_active;

  // Of `items`, those past the runs are further blocks of channels. Groups past the last item
  // repeat it without storing, so that all lanes of a warp stay together.
  __device__ Run(const Params& params, int item, int items) {
    is_active = item < items;
    const int clamped = is_active ? item : items - 1;
    block = clamped < params.items ? 0 : clamped / params.items;
    index = clamped - block * params.items;
    unsigned rest = index;
    const unsigned run = take(rest, params.runs);
    const AxisParams& last = params.axis[2];
    const int group = take(rest, last.dilation);
    y = place_of(params.axis[1], take(rest, params.axis[1].length));
    x = place_of(params.axis[0], rest);
    z = Place{line_of(last, group), group, int(run) * kRun, last.dilation};
    // Groups that are one token shorter may lack the last run.
    is_active = is_active && z.position < z.line.length;
    if (!is_active) z.position = 0;
    count = is_active ? min_of(kRun, z.line.length - z.position) : 0;
  }

  __device__ __forceinline__ int last() const { return max_of(z.position + count - 1, z.position); }

 private:
  static __device__ __forceinline__ unsigned take(unsigned& rest, unsigned extent) {
    if (extent == 1) return 0;
    const unsigned quotient = rest / extent;
    const unsigned remainder = rest - quotient * extent;
    rest = quotient;
    return remainder;
  }
};

}  // namespace cupyna
