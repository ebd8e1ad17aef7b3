// Single arithmetic instructions that CUDA C++ has no exact name for.
// PTX ISA: ex2.approx.ftz.f32.
#pragma once

namespace cupyna::ptx {

// 2^x; relative error below 2^-22, and 0 for minus infinity.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace cupyna::ptx
