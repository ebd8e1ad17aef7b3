// A softmax of rows that four threads share, where weights are lowered by a number that follows the
// largest score only when it has to: as long as no weight passes 2^8, neither sums nor weights
// change, and the threads of a row have nothing to tell each other.
#pragma once

#include "../common/attention_params.cuh"
#include "../common/pack.cuh"
#include "../common/warp.cuh"
#include "online.cuh"

namespace cupyna {

struct LazyRow {
  // Not minus infinity: the difference of two infinities is no number.
  float shift = -3.4028234e38f;  // of the exponents, in powers of two
  float sum = 0;                 // of this thread's own columns

  static constexpr float kMost = 8.f;

  __device__ __forceinline__ bool is_passed(float largest, float scale_log2) const {
    return largest * scale_log2 - shift > kMost;
  }

  // Takes the largest score of the thread's columns. Returns the factor of everything summed so
  // far.
  __device__ __forceinline__ float raise(float largest, float scale_log2) {
    const float before = shift;
    shift = fmaxf(before, max_over_quad(largest) * scale_log2);
    const float factor = ptx::exp2_approx(before - shift);
    sum *= factor;
    return factor;
  }

  __device__ __forceinline__ float weight(float score, float scale_log2) const {
    return ptx::exp2_approx(score * scale_log2 - shift);
  }

  // The log-sum-exp, of the weights' sum over all four threads.
  __device__ __forceinline__ float lse(float sum) const {
    return (shift + ptx::log2_approx(sum)) * kLn2;
  }
};

// Takes the scores of a warp's 16 rows, of which a thread holds two, and brings what is summed so
// far to their scale where some weight would pass. The first scores find no sums. The scale is a
// reference, so that it is read where it is used.
template <int kScores, int kSums>
__device__ __forceinline__ void raise_rows(LazyRow (&rows)[2], float (&sums)[kSums][4],
                                           const float (&scores)[kScores][4],
                                           const float& scale_log2, bool has_sums = true) {
  float largest[2] = {-infinity(), -infinity()};
#pragma unroll
  for (int n = 0; n < kScores; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[half] = fmaxf(largest[half], fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    }
  }
  if (has_sums) {
    const bool is_passed =
        rows[0].is_passed(largest[0], scale_log2) || rows[1].is_passed(largest[1], scale_log2);
    if (!__any_sync(kAllLanes, is_passed)) return;
  }
  const float factors[2] = {rows[0].raise(largest[0], scale_log2),
                            rows[1].raise(largest[1], scale_log2)};
  if (!has_sums) return;
#pragma unroll
  for (int n = 0; n < kSums; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[n][i] *= factors[i / 2];
  }
}

// Scores of 16 columns, from two products, become the left fragment of the product with the values.
template <typename T, int kScores>
__device__ __forceinline__ void weigh(unsigned (&weights)[4], LazyRow (&rows)[2],
                                      const float (&scores)[kScores][4], int first,
                                      float scale_log2) {
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    const float (&four)[4] = scores[first + part / 2];
    LazyRow& row = rows[part % 2];
    const float left = row.weight(four[part % 2 * 2], scale_log2);
    const float right = row.weight(four[part % 2 * 2 + 1], scale_log2);
    row.sum += left + right;
    weights[part] = pack<T>(left, right);
  }
}

}  // namespace cupyna
