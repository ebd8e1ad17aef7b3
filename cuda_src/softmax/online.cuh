// The online softmax of the rows that one thread shares with three others: running maximum and sum,
// in powers of two with the scale of the scores folded into one multiply-add.
#pragma once

#include "../ptx/arithmetic.cuh"

namespace cupyna {

__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

__device__ __forceinline__ float max_over_quad(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

__device__ __forceinline__ float sum_over_quad(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

struct OnlineRow {
  float largest = -infinity();  // of the scores, before the scale
  float sum = 0;                // of this thread's own columns

  // Takes the largest score of a new tile; returns the factor of everything summed so far, which is
  // exactly one where the maximum stays.
  __device__ __forceinline__ float raise(float candidate, float scale_log2) {
    const float before = largest;
    largest = fmaxf(largest, candidate);
    const float rise = before * scale_log2 - shift(scale_log2);
    const float factor = before == largest ? 1.f : ptx::exp2_approx(rise);
    sum *= factor;
    return factor;
  }

  // What exponents are lowered by. A row without a key so far must not meet inf - inf.
  __device__ __forceinline__ float shift(float scale_log2) const {
    return largest == -infinity() ? 0.f : largest * scale_log2;
  }
};

}  // namespace cupyna
