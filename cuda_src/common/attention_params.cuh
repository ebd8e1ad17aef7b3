// What a launch of a fused kernel is told, by value; cupyna/kernels/fused/params.py mirrors it.
#pragma once

#include "params.cuh"

namespace cupyna {

// Extents of a tile of rows and of one of columns along one axis. Those of rows are powers of two.
struct TileAxis {
  int row_extent_log2;
  int column_extent;
  int row_tiles;
};

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// What backward knows of a query: its log-sum-exp, in powers of two, and the sum of dout * out that
// is taken from the gradients of its weights.
struct Statistics {
  float lse_log2, delta;
};

// Chunks of eight channels of a query's sums change places by its token, so that neighbors that
// lie in shared memory as they do in global memory keep theirs in different banks.
__device__ __forceinline__ int sum_turn(int head_dim, int y, int z) {
  return (z + 4 * y) & (head_dim % 64 == 0 ? 7 : head_dim % 32 == 0 ? 3 : 0);
}

// How channels of a query's sums stand in memory: one after the other, with chunks that have
// changed places (sum_turn), or as threads add them (QuerySums).
enum class SumOrder : int { kByChannel = 0, kTurned = 1, kByThread = 2 };

struct AttentionParams {
  Array q, k, v, out, lse, bias;
  AxisParams axis[kAxes];
  TileAxis tile[kAxes];
  int head_group;
  int head_dim;
  int value_dim;
  float scale;          // of the scores, never negative: a sign is carried by the queries
  float scale_log2;     // the same in powers of two
  unsigned query_keep;  // bits of two packed queries that are kept
  unsigned query_flip;  // and those that are inverted: the sign
};

// Beside the windows, keys and values that every query sees: [batch, tokens, kv_heads, channels].
struct ForwardParams : AttentionParams {
  Array more_k, more_v;
  int more_tokens;
};

// Backward reads all of forward's arrays; `scale` keeps its sign.
struct GradientParams : AttentionParams {
  Array dout, dlse, dq, dk, dv;
  Statistics* statistics;  // [batch, heads, tokens]
  float* query_sums;       // [batch, heads, tokens, row], where one pass gives all gradients
  int row_lanes;           // threads of a row of queries, 8 channels each: a power of two
  SumOrder sum_order;      // of channels; rows have the length that QuerySums gives them
};

// Queries are cut into slices, boxes of `extent` tokens along an axis.
struct SliceAxis {
  int extent;
  int slices;
};

// Backward of keys and values beside the windows: they are `k` and `v`.
struct BesideGradientParams : GradientParams {
  Array window_dq;    // what the windows give to the gradient of the queries
  float* key_sums;    // [slices, batch, tokens, kv_heads, head_dim]
  float* value_sums;  // [slices, batch, tokens, kv_heads, value_dim]
  SliceAxis slice[kAxes];
  int more_tokens;
};

// Where the column tiles that a tile of queries may meet lie, along one axis: the first one's
// distance from the tile of queries, and how many follow each other.
struct DistanceAxis {
  int first;
  int tiles;
};

struct BiasGradientParams : GradientParams {
  Array dbias;
  float* partial_sums;  // [parts, heads, distances, offsets]; offsets of one pair of tiles
  DistanceAxis distance[kAxes];
  int batches;
  int parts;  // blocks that share the pairs of tiles of one head and distance
  int lanes;  // threads that add up one entry: a power of two
};

}  // namespace cupyna
