// Sums in global memory that nobody waits for.
// PTX ISA: red, with vectors of float32 since compute capability 9.0.
#pragma once

namespace cupyna::ptx {

// Two neighboring float32 numbers, aligned to 8 bytes.
__device__ __forceinline__ void add_pair(float* target, float first, float second) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(target), "f"(first), "f"(second)
               : "memory");
#else
  atomicAdd(target, first);
  atomicAdd(target + 1, second);
#endif
}

}  // namespace cupyna::ptx
