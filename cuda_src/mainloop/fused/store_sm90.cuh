// Rows of a warpgroup's sums from registers to memory.
#pragma once

#include "../../common/pack.cuh"
#include "../../common/warp.cuh"

namespace cupyna {

// One of a thread's two rows, times a factor, 16 bytes at a time: four lanes hold a row together
// and trade words. All lanes of a warp take part, those without a real row write nothing.
template <typename T, int kSums>
__device__ __forceinline__ void store_row(T* target, const float (&sums)[kSums], float factor,
                                          int half, int channels, bool is_real) {
  constexpr int kHeadDim = 2 * kSums;
#pragma unroll
  for (int block = 0; block < kHeadDim / 32; ++block) {
    unsigned words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int first = 16 * block + 4 * i + 2 * half;
      words[i] = pack<T>(sums[first] * factor, sums[first + 1] * factor);
    }
    transpose_over_quad(words);
    const int channel = block * 32 + threadIdx.x % 4 * 8;
    if (is_real && channel < channels) {
      *reinterpret_cast<uint4*>(target + channel) =
          make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

}  // namespace cupyna
