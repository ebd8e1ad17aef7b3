// Scores and weights in memory: in the accumulator's type, or in that of the inputs.
#pragma once

#include "numeric.cuh"
#include "params.cuh"

namespace cupyna {

__device__ __forceinline__ long long offset_of(const Array& array, int b, int x, int y, int z,
                                               int h) {
  return b * array.batch + x * array.axis[0] + y * array.axis[1] + z * array.axis[2] +
         h * array.head;
}

// Calls `function` with a pointer to weights as they are stored, `offset` elements from the first:
// one branch for many loads, which then do not wait for each other.
template <typename T, typename Function>
__device__ __forceinline__ auto with_weights(const Params& params, long long offset,
                                             Function&& function) {
  if (sizeof(T) == sizeof(Wide<T>) || params.weights_is_wide) {
    return function(static_cast<Wide<T>*>(params.weights.data) + offset);
  }
  return function(static_cast<T*>(params.weights.data) + offset);
}

}  // namespace cupyna
