// Keys that every query sees beside its window: tiles of tokens without a place in the grid.
#pragma once

#include "../../softmax/online.cuh"
#include "tile_sm80.cuh"

namespace cupyna {

// Begins to copy a tile of keys and values, from token `begin` on; past the last there are zeros.
template <typename T, typename Tile, int kElements>
__device__ __forceinline__ void copy_additional(const Tile& tile, const ForwardParams& params,
                                                int begin, T (&keys)[kElements],
                                                T (&values)[kElements]) {
  const Array &k = params.more_k, &v = params.more_v;
  const int kv_head = tile.head / params.head_group;
  constexpr int kPerChunk = Tile::kPerChunk;
  for (int i = threadIdx.x; i < kElements / kPerChunk; i += Tile::kThreads) {
    const int column = i / Tile::kChunks, chunk = i % Tile::kChunks;
    const int channel = chunk * kPerChunk;
    const bool is_there = begin + column < params.more_tokens;
    const int token = is_there ? begin + column : 0;
    const T* key = static_cast<const T*>(k.data) + tile.batch * k.batch +
                   token * k.axis[kAxes - 1] + kv_head * k.head;
    const T* value = static_cast<const T*>(v.data) + tile.batch * v.batch +
                     token * v.axis[kAxes - 1] + kv_head * v.head;
    // Nothing is read from where no bytes are asked for.
    ptx::copy_async_16(Tile::address(keys, column, chunk), key + channel,
                       is_there && channel < params.head_dim ? 16 : 0);
    ptx::copy_async_16(Tile::address(values, column, chunk), value + channel,
                       is_there && channel < params.value_dim ? 16 : 0);
  }
}

// Takes products times `factor` as scores, and none of the columns from `tokens` on.
template <int kRowTiles, int kPairs>
__device__ __forceinline__ void score_additional(float (&scores)[kRowTiles][kPairs][4], int tokens,
                                                 float factor) {
#pragma unroll
  for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const int column = pair * 8 + threadIdx.x % 4 * 2;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& score = scores[row_tile][pair][i];
        score = column + i % 2 < tokens ? score * factor : -infinity();
      }
    }
  }
}

}  // namespace cupyna
