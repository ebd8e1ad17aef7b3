// What a launch of a gemm kernel is told, by value; cupyna/kernels/gemm/params.py mirrors it.
#pragma once

#include "params.cuh"

namespace cupyna {

// A tile along one axis: warps of it, and tokens of a warp, both powers of two.
struct GemmTileAxis {
  int warp_log2;
  int warps_log2;
  int tiles;
};

// Bits of GemmParams::vectors: whose rows are contiguous and aligned to 16 bytes.
enum GemmArray {
  kQueryArray,
  kKeyArray,
  kDoutArray,
  kValueArray,
  kOutputArray,
  kWeightsArray,
  kGradientArray
};

struct GemmParams {
  Array query;     // rows of queries: q, dO; or where O or dQ goes
  Array key;       // rows of keys: k, v; or where dK or dV goes
  Array dout;      // beside query, where scores and gradients of weights meet
  Array value;     // beside key
  Array output;    // O, for the row sums of dO * O
  Array weights;   // the channel is the slot
  Array gradient;  // of the scores, laid out as weights are
  Array lse;       // one channel
  Array dlse;
  Array bias;        // [head, 2 w0 - 1, 2 w1 - 1, 2 w2 - 1], or its gradient
  Array statistics;  // of queries, in backward: GemmStatistics
  void* maxima;      // of the rows of fragments, by chunk, then the sums of rows
  double scale;
  double empty;  // what stands in slots without a key, where they are filled
  AxisParams axis[kAxes];
  GemmTileAxis tile[kAxes];
  int batch;
  int heads;
  int head_group;      // query heads that share one key head
  int channels;        // of query and key
  int value_channels;  // of dout and value
  int split;           // the axis that slabs of a box are cut along
  int slab;            // positions of a slab along it
  int slab_rows;       // most rows of a slab
  int stages;          // slabs in shared memory
  int chunks;          // most chunks of a warp
  int groups;          // most groups of 16 columns of a warp
  int part_groups;     // most groups of 16 columns of a warp in one slab
  int vectors;         // bits of GemmArray
  int fills;           // whether slots without a key are written
  int is_precise;      // float32 products keep what TF32 rounds away
  int is_transposed;   // tiles hold keys: arrays of queries and of keys change places

  __device__ __forceinline__ bool is_vector(GemmArray array) const { return vectors >> array & 1; }
};

}  // namespace cupyna
