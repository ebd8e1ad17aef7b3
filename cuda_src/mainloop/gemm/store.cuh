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

// Stores a lane's sums of row l / 4 (half 0) or l / 4 + 8, times `factor`. Of kSharing tiles of
// eight channels it has 2 kSharing neighbors.
template <typename T, int kSharing, int kTiles>
__device__ __forceinline__ void store_row(T* row, const Wide<T> (&sums)[kTiles][4], int half,
                                          int channels, long long stride, bool is_vector,
                                          Wide<T> factor) {
  constexpr int kNeighbors = 2 * kSharing;
  const int own = int(threadIdx.x) % 4 * kNeighbors;
  const auto number = [&](int tile, int i) {
    return narrow<T>(sums[tile + i % kSharing][2 * half + i / kSharing] * factor);
  };
  if (is_vector) {
    // Rows of whole vectors of 16 bytes hold whole ones of these, too, but not always all.
    constexpr int kVector = kSharing > 1 ? 4 : 2;
    struct alignas(kVector * sizeof(T)) Vector {
      T at[kVector];
    };
    Vector* const to = reinterpret_cast<Vector*>(row + own);
#pragma unroll
    for (int n = 0; n < kTiles; n += kSharing) {
#pragma unroll
      for (int first = 0; first < kNeighbors; first += kVector) {
        if (n * 8 + own + first >= channels) continue;
        Vector numbers;
#pragma unroll
        for (int i = 0; i < kVector; ++i) numbers.at[i] = number(n, first + i);
        to[(n * 8 + first) / kVector] = numbers;
      }
    }
    return;
  }
  row += own * stride;
#pragma unroll
  for (int n = 0; n < kTiles; n += kSharing) {
#pragma unroll
    for (int i = 0; i < kNeighbors; ++i, row += stride) {
      if (n * 8 + own + i < channels) *row = number(n, i);
    }
    row += (8 * kSharing - kNeighbors) * stride;
  }
}

}  // namespace cupyna
