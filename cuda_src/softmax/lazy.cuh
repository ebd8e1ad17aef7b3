// A softmax of rows that four threads share, where weights are lowered by a number that follows the
// largest score only when it has to: as long as no weight passes 2^8, neither sums nor weights
// change, and the threads of a row have nothing to tell each other.
#pragma once

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
};

}  // namespace cupyna
