// What a launch of the fused forward on Hopper is told, by value;
// cupyna/kernels/hopper/params.py holds its mirror.
#pragma once

#include "params.cuh"

namespace cupyna {

// A CUtensorMap as the driver encodes it: only the copy engine reads it.
struct alignas(64) TensorMap {
  unsigned char opaque[128];
};

// Which coordinates of an array the five of a tensor map are, the innermost first.
enum class BoxOrder : int {
  kBatchOutermost = 0,  // channel, head, z, y, batch: grids of at most two axes
  kAxisOutermost = 1,   // channel, head, z, y, x: one batch entry
  kHeadsFolded = 2,     // head * stride + channel, z, y, x, batch
};

// Along one axis: rows of one consumer's box (a power of two), of the whole tile, keys of a key
// tile, and tiles of rows.
struct HopperAxis {
  int rows_log2;
  int row_extent;
  int key_extent;
  int row_tiles;
};

// Tiles of fewer consumers, which end each head along the axis that consumers divide. They are
// handed out after all whole ones: the last turn of blocks is the shorter for it.
struct HopperShortTiles {
  int first_item;
  int tiles;  // of one head
  int begin;  // position of the first row
  int row_extent;
  int row_tiles;
};

struct HopperParams {
  TensorMap q_map, k_map, v_map;
  Array out, lse;
  AxisParams axis[kAxes];
  HopperAxis tile[kAxes];
  int split_axis;  // the one along which consumers divide a tile
  int box_order;
  int q_head_stride, k_head_stride, v_head_stride;  // in elements, where heads are folded
  int heads;
  int head_group;
  int tiles;            // of one head, the short ones aside
  int items;            // tiles of all heads of all batch entries
  int reversed_planes;  // bits of even and of odd heads whose tiles come last first
  int rotation;         // tiles by which each head begins later than the one before
  int takes_turns;      // whether consumers queue their products one after the other
  HopperShortTiles shorts;
  int value_dim;
  float sign;        // of the scale, or 0
  float scale;       // of the scores, never negative
  float scale_log2;  // the same in powers of two
};

}  // namespace cupyna
