// Element types, and the wider types in which they are summed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace cupyna {

template <typename T>
struct Numeric {
  using Wide = float;
};

template <>
struct Numeric<double> {
  using Wide = double;
};

// Sums, exponentials and stored weights: float64 for float64, float32 for all others.
template <typename T>
using Wide = typename Numeric<T>::Wide;

// Blocks of 128 threads on a multiprocessor: bounds the registers of the naive products. Loads of
// single elements hold more addresses, and sums over a whole warp more partial sums.
template <typename T, bool kIsVector, int kLanes = 4>
constexpr int kProductBlocks = kIsVector && sizeof(Wide<T>) < 8 ? (kLanes < 16 ? 4 : 3) : 2;

// The same for kernels that move weights, which want more threads than registers.
template <typename T, bool kIsVector = true>
constexpr int kMoverBlocks = kIsVector && sizeof(Wide<T>) < 8 ? 5 : 2;

__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T narrow(Wide<T> x) {
  return x;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }

}  // namespace cupyna
