// What backward knows of a tile's own queries, where each lane finds the place of one row.
#pragma once

#include "../../common/attention_params.cuh"
#include "../../common/numeric.cuh"
#include "../../common/pack.cuh"
#include "row_places_sm80.cuh"

namespace cupyna {

// Statistics of a warp's queries, whose dO is in shared memory: the log-sum-exp and delta = sum(dO
// O) - dlse. Loads of several rows are under way together: one after another, they took as long as
// four column tiles.
template <typename Tile>
__device__ __forceinline__ void lay_row_statistics(const Tile& tile, const GradientParams& params,
                                                   int warp) {
  using T = typename Tile::Element;
  using Places = RowPlaces < Tile, Tile::kChunks<32 ? Tile::kChunks : 32, 1>;
  constexpr int kPerChunk = Tile::kPerChunk, kLanes = Places::kLanes;
  constexpr int kTurns = Tile::kWarpRows / Places::kTogether, kAhead = kTurns < 8 ? kTurns : 8;
  static_assert(Tile::kWarpRows <= 32 && kTurns % kAhead == 0, "a lane has one row");
  const Places places(tile, 0, warp * Tile::kWarpRows);
  const int lane = threadIdx.x % 32;
  const auto own = [&](const Array& array) {
    return static_cast<const float*>(array.data)[tile.row_offset(array, places.at, tile.head)];
  };
  const T* out = static_cast<const T*>(params.out.data);
  const long long own_offset = tile.row_offset(params.out, places.at, tile.head);
  const float lse = own(params.lse);
  const float dlse = params.dlse.data == nullptr ? 0.f : own(params.dlse);
  float own_delta = 0;
#pragma unroll 1
  for (int begin = 0; begin < kTurns; begin += kAhead) {
    float deltas[kAhead] = {};
#pragma unroll
    for (int first_chunk = 0; first_chunk < Tile::kChunks; first_chunk += kLanes) {
      const int chunk = first_chunk + lane % kLanes;
      const bool is_there = chunk * kPerChunk < params.value_dim;
      uint4 found[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const T* from = out + places.in(own_offset, begin + i) + chunk * kPerChunk;
        found[i] = is_there ? *reinterpret_cast<const uint4*>(from) : uint4{};
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const uint4 given =
            *reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(tile.shared.rows[1]) +
                                            Tile::Rows::offset(places.row_in(begin + i), chunk));
        const T* a = reinterpret_cast<const T*>(&found[i]);
        const T* b = reinterpret_cast<const T*>(&given);
#pragma unroll
        for (int element = 0; element < kPerChunk; ++element) {
          deltas[i] += widen(a[element]) * widen(b[element]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        deltas[i] += __shfl_xor_sync(0xffffffffu, deltas[i], step);
      }
      const float delta = __shfl_sync(0xffffffffu, deltas[i], lane % Places::kTogether * kLanes);
      if (lane / Places::kTogether == begin + i) own_delta = delta;
    }
  }
  if (lane < Tile::kWarpRows) {
    const Statistics found{lse * kLog2E, own_delta - dlse};
    tile.shared.statistics[places.row] = found;
    if (places.real >> lane & 1) params.statistics[tile.query_index(places.at, tile.head)] = found;
  }
  __syncwarp();
}

}  // namespace cupyna
