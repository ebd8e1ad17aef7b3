// Sums of dQ that blocks of a lone pass over keys add to: float32, a row for each query.
//
// A thread of a product has two neighboring channels of each eight. Where memory adds four numbers
// at once, the channels of each 32 stand in the order in which threads have them: an addition
// for two tiles of eight, and 64 neighboring bytes for a row's four threads.
#pragma once

#include "../../common/attention_params.cuh"
#include "../../ptx/reduction.cuh"

namespace cupyna {

struct QuerySums {
  // Channels that stand together, and what a row's length is a multiple of.
  static constexpr int kGroup = 32;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr bool kIsByThread = false;
#else
  static constexpr bool kIsByThread = true;
#endif

  // Numbers from one row to the next.
  static __device__ __forceinline__ int row_length(SumOrder order, int head_dim) {
    return order == SumOrder::kByThread ? (head_dim + kGroup - 1) / kGroup * kGroup : head_dim;
  }

  // Where an even channel stands in its row, before the next one.
  static __device__ __forceinline__ int place_of(int channel) {
    if (!kIsByThread) return channel;
    const int tile = channel / 8 % 4, thread = channel / 2 % 4;
    return channel / kGroup * kGroup + tile / 2 * 16 + thread * 4 + tile % 2 * 2;
  }

  // Where a thread's part of 32 channels begins.
  static __device__ __forceinline__ int first_of(int lane) {
    return lane % 4 * (kIsByThread ? 4 : 2);
  }

  // Adds a thread's part of one row of four tiles to 32 channels; `mine` is where it begins.
  static __device__ __forceinline__ void add(float* mine, const float (*sums)[4], int half) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const float (&four)[4] = sums[n];
      const float left = four[2 * half], right = four[2 * half + 1];
      if constexpr (!kIsByThread) {
        ptx::add_one(mine + n * 8, left);
        ptx::add_one(mine + n * 8 + 1, right);
      } else if (n % 2 == 1) {
        const float (&before)[4] = sums[n - 1];
        ptx::add_four(mine + n / 2 * 16,
                      make_float4(before[2 * half], before[2 * half + 1], left, right));
      }
    }
  }
};

}  // namespace cupyna
