// Where gradients go that come from keys beside the windows: those of queries on top of what the
// windows give them, those of keys and values as sums over a slice of the queries.
#pragma once

#include "../../common/numeric.cuh"
#include "../../common/pack.cuh"
#include "products_sm80.cuh"
#include "tile_sm80.cuh"

namespace cupyna {

// Adds the rows of another array to a warp's share of its rows in shared memory.
template <typename Tile>
__device__ __forceinline__ void add_rows(const Tile& tile, const Array& array, int warp,
                                         int share) {
  using T = typename Tile::Element;
  const T* source = static_cast<const T*>(array.data);
  constexpr int kWarpChunks = Tile::kWarpRows * Tile::kChunks;
  for (int i = share * 32 + threadIdx.x % 32; i < kWarpChunks; i += 32 * Tile::kWarpsOfRows) {
    const int row = warp * Tile::kWarpRows + i / Tile::kChunks, chunk = i % Tile::kChunks;
    bool is_real;
    const Coordinate at = tile.position_of(row, is_real);
    if (!is_real || chunk * Tile::kPerChunk >= tile.params.head_dim) continue;
    const uint4 other = *reinterpret_cast<const uint4*>(
        source + tile.row_offset(array, at, tile.head) + chunk * Tile::kPerChunk);
    const T* terms = reinterpret_cast<const T*>(&other);
    T* mine = reinterpret_cast<T*>(reinterpret_cast<char*>(tile.shared.rows[0]) +
                                   Tile::Rows::offset(row, chunk));
#pragma unroll
    for (int n = 0; n < Tile::kPerChunk; ++n) {
      mine[n] = narrow<T>(widen(mine[n]) + widen(terms[n]));
    }
  }
}

// Sums of a slice, times a factor: [slices, batch, tokens, kv_heads, channels].
template <typename Products, typename Tile>
__device__ __forceinline__ void write_sums(const Tile& tile, float* target, int channels,
                                           const typename Products::Sums& sums, float factor,
                                           int warp, int first_chunk) {
  const auto& params = static_cast<const BesideGradientParams&>(tile.params);
  const long long slice = blockIdx.x / params.tile[kAxes - 1].row_tiles;
#pragma unroll
  for (int row_tile = 0; row_tile < Tile::kWarpRows / 16; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate at = tile.position_of(Tile::row_of(warp, row_tile, half), is_real);
      if (!is_real) continue;
      const long long token = (slice * gridDim.z + tile.batch) * params.more_tokens + at.z;
      float* row = target + (token * gridDim.y + tile.head) * channels;
      Products::each_sum(sums[row_tile], half, first_chunk, [&](int channel, float sum) {
        if (channel < channels) row[channel] = sum * factor;
      });
    }
  }
}

}  // namespace cupyna
