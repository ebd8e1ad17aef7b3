// What a launch of the fused backward on Hopper is told, by value;
// cupyna/kernels/hopper/gradient_params.py holds its mirror.
#pragma once

#include "attention_params.cuh"
#include "hopper_params.cuh"

namespace cupyna {

// Rows are keys, and columns the queries that see them; or the reverse. `key_extent` of a tile is
// that of its columns.
struct HopperGradientParams {
  TensorMap row_map[2];     // K and V, or Q and dO
  TensorMap column_map[2];  // Q and dO, or K and V
  Array gradient[2];        // dK and dV, or dQ
  AxisParams axis[kAxes];
  HopperAxis tile[kAxes];
  int split_axis;
  int box_order;
  int row_head_stride[2], column_head_stride[2];  // in elements, where heads are folded
  int row_heads;
  int head_group;
  int tiles;            // of one head
  int items;            // tiles of all heads of all batch entries
  int reversed_planes;  // bits of even and of odd heads whose tiles come last first
  int rotation;         // by how many tiles each head begins later than the one before
  int head_dim;
  int value_dim;
  float scale;  // of the scores, with its sign
  float scale_log2;
  const Statistics* statistics;  // [batch, heads, tokens]
  float* query_sums;             // [batch, heads, tokens, head_dim], where dQ is summed too
};

}  // namespace cupyna
