// From scores to weights and from those to their gradients, in a block of the fused backward on
// Hopper: by what is known of each query before.
#pragma once

#include "../../ptx/arithmetic.cuh"
#include "gradient_block_sm90.cuh"

namespace cupyna {

template <typename Block>
struct GradientWeightsSm90 {
  using Scores = typename Block::Scores;  // of one part of the columns
  static constexpr int kColumns = Block::kColumns, kPart = kColumns / Block::kParts;
  static constexpr bool kRowsAreQueries = Block::kRowsAreQueries;

  const HopperGradientParams& params;
  const typename Block::Shared& shared;

  // A slice of a part's scores become weights. `own` are statistics of the thread's rows, where
  // they are queries.
  template <int kSlices>
  __device__ __forceinline__ void weigh(Scores& scores, const Statistics (&own)[2], int stage,
                                        int part, int slice) const {
    constexpr int kSteps = kPart / 8 / kSlices;
    const float factor = params.scale_log2;
#pragma unroll
    for (int i = slice * kSteps; i < (slice + 1) * kSteps; ++i) {
      float even[2], odd[2];
      if constexpr (kRowsAreQueries) {
        even[0] = odd[0] = own[0].lse_log2;
        even[1] = odd[1] = own[1].lse_log2;
      } else {
        const float2 lse_log2 = statistics_of(0, stage, part, i);
        even[0] = even[1] = lse_log2.x;
        odd[0] = odd[1] = lse_log2.y;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& left = scores[4 * i + 2 * half];
        float& right = scores[4 * i + 2 * half + 1];
        left = ptx::exp2_approx(left * factor - even[half]);
        right = ptx::exp2_approx(right * factor - odd[half]);
      }
    }
  }

  // Weights become gradients of scores.
  __device__ __forceinline__ void differentiate(Scores& weights, const Scores& gradients,
                                                const Statistics (&own)[2], int stage,
                                                int part) const {
#pragma unroll
    for (int i = 0; i < kPart / 8; ++i) {
      if constexpr (kRowsAreQueries) {
#pragma unroll
        for (int e = 0; e < 4; ++e) weights[4 * i + e] *= gradients[4 * i + e] - own[e / 2].delta;
      } else {
        const float2 delta = statistics_of(1, stage, part, i);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          weights[4 * i + e] *= gradients[4 * i + e] - (e % 2 == 0 ? delta.x : delta.y);
        }
      }
    }
  }

 private:
  // One of the statistics of the queries of a part's columns 8 i + 2 (lane % 4) + {0, 1}.
  __device__ __forceinline__ float2 statistics_of(int which, int stage, int part, int i) const {
    return *reinterpret_cast<const float2*>(
        &shared.statistics[which][stage * kColumns + part * kPart + 8 * i + threadIdx.x % 4 * 2]);
  }
};

}  // namespace cupyna
