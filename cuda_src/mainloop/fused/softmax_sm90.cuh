// The online softmax of a warpgroup's 64 rows, two of them in each thread.
#pragma once

#include "../../common/warp.cuh"
#include "../../ptx/wgmma_sm90.cuh"
#include "../../softmax/online.cuh"

namespace cupyna {

template <int kKeys>
struct SoftmaxSm90 {
  using Scores = float[kKeys / 2];

  OnlineRow rows[2];
  float factors[2];  // bring what was summed before to the scale of the last weights

  // Scores of a key tile become weights.
  __device__ __forceinline__ void weigh(Scores& scores, float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -infinity();
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) {
        largest = fmaxf(largest, fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
      }
      factors[half] = rows[half].raise(max_over_quad(largest), scale_log2);
      const float shift = rows[half].shift(scale_log2);
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) {
        float& left = scores[4 * i + 2 * half];
        float& right = scores[4 * i + 2 * half + 1];
        left = ptx::exp2_approx(left * scale_log2 - shift);
        right = ptx::exp2_approx(right * scale_log2 - shift);
        rows[half].sum += left + right;
      }
    }
  }

  // Waits for the product that adds to the sums, and brings them to the scale of the last weights.
  // After the first tiles no row's maximum moves any more.
  template <int kSums>
  __device__ __forceinline__ void await_and_rescale(float (&sums)[kSums]) const {
    // The assembler moves a wait to the begin of its block of instructions, which would put it
    // before the exponentials: so it stands behind a branch.
    if (__any_sync(kAllLanes, factors[0] != 1.f || factors[1] != 1.f)) {
      ptx::wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] *= factors[i / 2 % 2];
    }
    ptx::wgmma_wait<0>();
  }
};

}  // namespace cupyna
