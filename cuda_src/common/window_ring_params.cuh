// What a launch of the small-window forward on Hopper is told;
// cupyna/kernels/window/ring_params.py mirrors it.
#pragma once

#include "attention_params.cuh"
#include "hopper_params.cuh"

namespace cupyna {

// The axes are in the kernel's order: the one that keys are streamed along comes first. Grids of
// two axes have one of length one between them.
struct WindowRingAxis {
  int warp_extent_log2;  // queries of a warp's tile
  int row_extent;        // of a block's
  int row_tiles;         // tiles of a block along the axis
  int box;               // keys of a slice
  int lines;             // keys of a warp's box, but along the first axis
};

struct WindowRingParams {
  TensorMap k_map, v_map;
  Array q, out, lse;
  AxisParams axis[kAxes];
  WindowRingAxis tile[kAxes];
  int box_order, k_head_stride, v_head_stride;  // the strides in elements, where heads are folded
  int stages;                                   // of the ring
  int slices_log2;                              // of a stage
  int line_entries;                             // lines of the largest box, padding included
  int kv_heads;
  int head_group;
  unsigned works;  // tiles of all heads of keys and batch entries
  int head_dim, value_dim;
  float scale;          // of the scores, never negative: a sign is carried by the queries
  float scale_log2;     // the same in powers of two
  unsigned query_keep;  // bits of two packed queries that are kept
  unsigned query_flip;  // and those that are inverted: the sign
};

}  // namespace cupyna
