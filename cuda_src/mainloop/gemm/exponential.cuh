// Exponentials of scores in units of their own.
#pragma once

#include "../../softmax/online.cuh"

namespace cupyna {

// Powers of two in float32.
template <typename Number>
struct Exponential;

template <>
struct Exponential<float> {
  static constexpr float kUnit = 1.4426950408889634f;     // of a natural exponent
  static constexpr float kNatural = 0.6931471805599453f;  // of ours
  static __device__ __forceinline__ float of(float x) { return ptx::exp2_approx(x); }
};

template <>
struct Exponential<double> {
  static constexpr double kUnit = 1;
  static constexpr double kNatural = 1;
  static __device__ __forceinline__ double of(double x) { return exp(x); }
};

}  // namespace cupyna
