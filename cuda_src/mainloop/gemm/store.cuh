// Sums of channels from registers to rows of memory.
#pragma once

#include "../../common/numeric.cuh"

namespace cupyna {

template <typename Number, int kTiles>
__device__ __forceinline__ void clear(Number (&sums)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[n][i] = 0;
  }
}

// Stores a lane's sums of row l / 4 (half 0) or l / 4 + 8, times `factor`.
template <typename T, int kTiles>
__device__ __forceinline__ void store_row(T* row, const Wide<T> (&sums)[kTiles][4], int half,
                                          int channels, long long stride, bool is_vector,
                                          Wide<T> factor) {
  if (is_vector) {
    struct alignas(2 * sizeof(T)) Pair {
      T low, high;
    };
    Pair* const to = reinterpret_cast<Pair*>(row) + threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      // Rows of whole vectors hold whole pairs, but their last tile may hold half of its channels.
      if (n * 8 + int(threadIdx.x) % 4 * 2 < channels) {
        to[n * 4] =
            Pair{narrow<T>(sums[n][2 * half] * factor), narrow<T>(sums[n][2 * half + 1] * factor)};
      }
    }
    return;
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int channel = n * 8 + threadIdx.x % 4 * 2 + i;
      if (channel < channels) row[channel * stride] = narrow<T>(sums[n][2 * half + i] * factor);
    }
  }
}

}  // namespace cupyna
