// dQ = dS K of one column tile, in a pass over keys: all warps share out the queries and the
// channels, and add what they get to the sums of queries in memory.
#pragma once

#include "../../common/swizzle.cuh"
#include "../../ptx/mma_sm80.cuh"
#include "../../ptx/shared_memory.cuh"
#include "query_sums.cuh"

namespace cupyna {

// A warp takes 32 of kColumns queries, and a part of the channels. dS lies [key, query].
template <typename T, int kHeadDim, int kColumns, int kWarps>
struct QueryProductsSm80 {
  static constexpr int kParts = kColumns / 32;  // of the queries
  static constexpr int kChannels = kHeadDim * kParts / kWarps;
  using Sums = float[2][kChannels / 8][4];
  using Gradients = Swizzle<kColumns * sizeof(T)>;
  using Keys = Swizzle<kHeadDim * sizeof(T)>;

  static __device__ __forceinline__ int first_query(int warp) { return warp % kParts * 32; }
  static __device__ __forceinline__ int first_channel(int warp) {
    return warp / kParts * kChannels;
  }

  // The lane's part of the first 16 keys.
  static __device__ __forceinline__ unsigned place_of_gradients(const T* gradients, int first_query,
                                                                int lane) {
    return ptx::shared_address(gradients) +
           Gradients::offset(lane / 16 * 8 + lane % 8, first_query / 8 + lane / 8 % 2);
  }
  static __device__ __forceinline__ unsigned place_of_keys(const T* keys, int first_channel,
                                                           int lane) {
    return ptx::shared_address(keys) + Keys::offset(lane % 16, first_channel / 8 + lane / 16);
  }

  // Adds what 16 keys give.
  static __device__ __forceinline__ void multiply(Sums& sums, unsigned place_of_gradients,
                                                  unsigned place_of_keys, int depth) {
    unsigned gradients[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      ptx::ldmatrix_x4_trans(gradients[half], Gradients::moved(place_of_gradients, half * 2) +
                                                  depth * 16 * kColumns * sizeof(T));
    }
#pragma unroll
    for (int pair = 0; pair < kChannels / 16; ++pair) {
      unsigned keys[4];
      ptx::ldmatrix_x4_trans(
          keys, Keys::moved(place_of_keys, pair * 2) + depth * 16 * kHeadDim * sizeof(T));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        ptx::mma_m16n8k16<T>(sums[half][2 * pair], gradients[half], keys[0], keys[1]);
        ptx::mma_m16n8k16<T>(sums[half][2 * pair + 1], gradients[half], keys[2], keys[3]);
      }
    }
  }

  // Adds them to those in memory.
  template <typename Tile>
  static __device__ __forceinline__ void add(const Tile& tile, const Sums& sums,
                                             const typename Tile::Place& place, int first_query,
                                             int first_channel, int lane) {
    const auto& params = tile.params;
    if (first_channel >= params.head_dim) return;
    const int length = QuerySums::row_length(SumOrder::kByThread, params.head_dim);
    float* const begin =
        params.query_sums + place.query * length + first_channel + QuerySums::first_of(lane);
    // All is read before the first addition, which keeps registers until memory takes it.
    float* rows[4];
    bool is_there[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int query = first_query + i / 2 * 16 + i % 2 * 8 + lane / 4;
      rows[i] = begin + static_cast<long long>(tile.shared.tokens[query]) * length;
      is_there[i] = Tile::is_not_past(tile.shared.fields[query], place.last);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!is_there[i]) continue;
#pragma unroll
      for (int group = 0; group < kChannels; group += QuerySums::kGroup) {
        if (group > 0 && first_channel + group >= params.head_dim) break;
        QuerySums::add(rows[i] + group, &sums[i / 2][group / 8], i % 2);
      }
    }
  }
};

}  // namespace cupyna
