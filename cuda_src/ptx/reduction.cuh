// Sums in global memory that nobody waits for.
// PTX ISA: red, with vectors of float32 since compute capability 9.0.
#pragma once

namespace cupyna::ptx {

__device__ __forceinline__ void add_one(float* target, float x) { atomicAdd(target, x); }

// Four neighboring float32 numbers, aligned to 16 bytes.
__device__ __forceinline__ void add_four(float* target, const float4& x) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(target), "f"(x.x), "f"(x.y),
               "f"(x.z), "f"(x.w)
               : "memory");
#else
  atomicAdd(target, x.x);
  atomicAdd(target + 1, x.y);
  atomicAdd(target + 2, x.z);
  atomicAdd(target + 3, x.w);
#endif
}

}  // namespace cupyna::ptx
