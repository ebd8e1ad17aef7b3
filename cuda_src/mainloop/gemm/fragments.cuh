// Fragments of a left factor in memory: 16 rows and 16 columns at a time, lanes beside each other.
#pragma once

#include "../../common/pack.cuh"
#include "products.cuh"

namespace cupyna {

template <typename T>
constexpr int kBlockBytes = 32 * int(sizeof(FragmentBlock<T>));

template <typename T>
__device__ __forceinline__ void store_block(char* blocks, int group,
                                            const FragmentBlock<T>& block) {
  constexpr int kVectors = sizeof(FragmentBlock<T>) / 16;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    reinterpret_cast<uint4*>(blocks)[(group * kVectors + i) * 32 + threadIdx.x % 32] =
        block.vectors[i];
  }
}

template <typename T>
__device__ __forceinline__ FragmentBlock<T> load_block(const char* blocks, int group) {
  constexpr int kVectors = sizeof(FragmentBlock<T>) / 16;
  FragmentBlock<T> block;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    block.vectors[i] =
        reinterpret_cast<const uint4*>(blocks)[(group * kVectors + i) * 32 + threadIdx.x % 32];
  }
  return block;
}

// The sums of two tiles of eight columns as a block of a left factor.
template <typename T>
__device__ __forceinline__ FragmentBlock<T> block_of(const Wide<T> (&low)[4],
                                                     const Wide<T> (&high)[4]) {
  FragmentBlock<T> block;
  if constexpr (sizeof(T) == 2) {
    block.vectors[0] = uint4{pack<T>(low[0], low[1]), pack<T>(low[2], low[3]),
                             pack<T>(high[0], high[1]), pack<T>(high[2], high[3])};
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      block.at(i / 2, i % 2) = low[i];
      block.at(i / 2, 2 + i % 2) = high[i];
    }
  }
  return block;
}

}  // namespace cupyna
