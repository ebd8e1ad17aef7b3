// The two products of one consumer: 64 queries against a key tile, and their weights against its
// values.
//
// Matrices lie in shared memory as blocks of 64 channels, each of them rows of 128 bytes, one to a
// token, under the 128-byte swizzle: what the copy engine makes of a box.
#pragma once

#include "../../common/pack.cuh"
#include "../../ptx/shared_memory.cuh"
#include "../../ptx/wgmma_sm90.cuh"

namespace cupyna {

constexpr int kBlockChannels = 64;
constexpr int kRowBytes = 128;
constexpr int kConsumerRows = 64;

template <typename T, int kHeadDim, int kKeys>
struct ProductsSm90 {
  static constexpr int kBlocks = (kHeadDim + kBlockChannels - 1) / kBlockChannels;
  static constexpr int kQueryBlockBytes = kConsumerRows * kRowBytes;
  static constexpr int kKeyBlockBytes = kKeys * kRowBytes;
  static_assert(kKeys % 16 == 0 && kHeadDim % 16 == 0, "products of sixteen");

  using Scores = float[kKeys / 2];
  using Sums = float[kHeadDim / 2];
  using Weights = unsigned[kKeys / 4];

  // Queues scores = Q K^T. Both are K-major: rows of channels.
  static __device__ __forceinline__ void multiply_keys(Scores& scores, const T* queries,
                                                       const T* keys) {
    const ptx::Descriptor q = ptx::matrix_descriptor(ptx::shared_address(queries), 16);
    const ptx::Descriptor k = ptx::matrix_descriptor(ptx::shared_address(keys), 16);
    ptx::wgmma_fence();
#pragma unroll
    for (int depth = 0; depth < kHeadDim / 16; ++depth) {
      const int block = depth / 4, bytes = depth % 4 * 32;
      ptx::Wgmma<T, kKeys>::shared(scores, q + (block * kQueryBlockBytes + bytes) / 16,
                                   k + (block * kKeyBlockBytes + bytes) / 16, depth != 0);
    }
    ptx::wgmma_commit();
  }

  // Queues sums += P V. V is MN-major: sixteen of its rows are one step of the sum.
  // kSlice of kSlices that the keys are cut into, or all of them.
  template <int kSlices = 1>
  static __device__ __forceinline__ void multiply_values(Sums& sums, const Weights& weights,
                                                         const T* values, int slice = 0) {
    constexpr int kDepths = kKeys / 16 / kSlices;
    static_assert(kDepths * kSlices * 16 == kKeys, "whole slices");
    const ptx::Descriptor v = ptx::matrix_descriptor(ptx::shared_address(values), kKeyBlockBytes);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDepths; ++i) {
      const int depth = slice * kDepths + i;
      ptx::Wgmma<T, kHeadDim>::registers(sums, &weights[4 * depth], v + depth * 16 * kRowBytes / 16,
                                         1);
    }
    ptx::wgmma_commit();
  }

  // Sums of a product are fragments of the next one once they are packed.
  template <int kSlices = 1>
  static __device__ __forceinline__ void pack_weights(Weights& weights, const Scores& scores,
                                                      int slice = 0) {
    constexpr int kWords = kKeys / 4 / kSlices;
#pragma unroll
    for (int i = slice * kWords; i < (slice + 1) * kWords; ++i) {
      weights[i] = pack<T>(scores[2 * i], scores[2 * i + 1]);
    }
  }
};

}  // namespace cupyna
