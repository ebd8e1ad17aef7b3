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

// Stores a lane's pairs of neighboring channels of two rows.
template <typename T>
__device__ __forceinline__ void store_pair(T* row, int channel, int channels, long long stride,
                                           bool is_vector, Wide<T> low, Wide<T> high) {
  struct alignas(2 * sizeof(T)) Pair {
    T low, high;
  };
  if (is_vector) {
    if (channel < channels)
      *reinterpret_cast<Pair*>(row + channel) = {narrow<T>(low), narrow<T>(high)};
    return;
  }
  if (channel < channels) row[channel * stride] = narrow<T>(low);
  if (channel + 1 < channels) row[(channel + 1) * stride] = narrow<T>(high);
}

// Stores a lane's sums of row l / 4 (half 0) or l / 4 + 8, times `factor`.
template <typename T, int kTiles>
__device__ __forceinline__ void store_row(T* row, const Wide<T> (&sums)[kTiles][4], int half,
                                          int channels, long long stride, bool is_vector,
                                          Wide<T> factor) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    if (n * 8 >= channels) break;
    store_pair<T>(row, n * 8 + threadIdx.x % 4 * 2, channels, stride, is_vector,
                  sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
  }
}

}  // namespace cupyna
