// Row sums of dO O, less the gradients of the log-sum-exp, for backward.
#pragma once

#include "../../common/gemm_params.cuh"
#include "../../common/numeric.cuh"

namespace cupyna {

// A lane's share of the product of two rows, in 16-byte vectors. Several are on their way at once:
// rows come from far away, and nothing else is to be done here.
template <typename T>
__device__ __forceinline__ Wide<T> vector_product(const T* dout, const T* output, int channels) {
  constexpr int kVector = 16 / int(sizeof(T));
  constexpr int kTogether = 4;
  Wide<T> sum = 0;
#pragma unroll 1
  for (int c = threadIdx.x % 4 * kVector; c < channels; c += kTogether * 4 * kVector) {
    uint4 a[kTogether] = {}, b[kTogether] = {};
#pragma unroll
    for (int n = 0; n < kTogether; ++n) {
      const int at = c + n * 4 * kVector;
      if (at >= channels) continue;
      a[n] = __ldg(reinterpret_cast<const uint4*>(dout + at));
      b[n] = __ldg(reinterpret_cast<const uint4*>(output + at));
    }
#pragma unroll
    for (int n = 0; n < kTogether; ++n) {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        sum += widen(reinterpret_cast<const T*>(&a[n])[i]) *
               widen(reinterpret_cast<const T*>(&b[n])[i]);
      }
    }
  }
  return sum;
}

// Four lanes share a row; offsets are those of its rows.
template <typename T>
__device__ __forceinline__ Wide<T> row_sum_of(const GemmParams& params, long long of_dout,
                                              long long of_output, long long of_dlse) {
  const T* dout = static_cast<const T*>(params.dout.data) + of_dout;
  const T* output = static_cast<const T*>(params.output.data) + of_output;
  Wide<T> sum = 0;
  if (params.is_vector(kDoutArray) && params.is_vector(kOutputArray)) {
    sum = vector_product(dout, output, params.value_channels);
  } else {
    for (int c = threadIdx.x % 4; c < params.value_channels; c += 4) {
      sum += widen(dout[c * params.dout.channel]) * widen(output[c * params.output.channel]);
    }
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (params.dlse.data != nullptr) {
    sum -= static_cast<const Wide<T>*>(params.dlse.data)[of_dlse];
  }
  return sum;
}

}  // namespace cupyna
