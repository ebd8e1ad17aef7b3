// What a launch of a fused kernel is told, by value; cupyna/kernels/attention_params.py mirrors it.
#pragma once

#include "params.cuh"

namespace cupyna {

// Extents of a query tile and a key tile along one axis. Query tiles are powers of two.
struct TileAxis {
  int q_extent_log2;
  int kv_extent;
  int q_tiles;
};

struct AttentionParams {
  Array q, k, v, out, lse, bias;
  AxisParams axis[kAxes];
  TileAxis tile[kAxes];
  int head_group;
  int head_dim;
  int value_dim;
  float scale;          // of the scores, never negative: a sign is carried by the queries
  unsigned query_keep;  // bits of two packed queries that are kept
  unsigned query_flip;  // and those that are inverted: the sign
};

}  // namespace cupyna
