// Single arithmetic instructions that CUDA C++ has no exact name for.
// PTX ISA: ex2.approx.ftz.f32, lg2.approx.ftz.f32, rcp.approx.ftz.f32, mad.wide.s32,
// prefetch.global.L2.
#pragma once

namespace cupyna::ptx {

// 2^x; relative error below 2^-22, and 0 for minus infinity.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// The logarithm to base 2; error below 2^-22, absolute near 1 and else relative.
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x to within one unit of the last place.
__device__ __forceinline__ float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// threadIdx.x % 32, which a compiler does not know.
__device__ __forceinline__ unsigned lane_id() {
  unsigned lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// gridDim.x, read where it is asked for: a compiler keeps that in a register.
__device__ __forceinline__ unsigned grid_blocks() {
  unsigned blocks;
  asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(blocks));
  return blocks;
}

// An address `count` steps of so many bytes away: one instruction, which a compiler takes apart.
__device__ __forceinline__ const char* moved(const char* from, int count, int step_bytes) {
  const char* to;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(to) : "r"(count), "r"(step_bytes), "l"(from));
  return to;
}

// The same number, but what is computed from it is not kept in registers for another place that
// computes it too.
__device__ __forceinline__ unsigned computed_here(unsigned x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Has a line of global memory brought to the second-level cache; nothing waits for it.
__device__ __forceinline__ void prefetch(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}

}  // namespace cupyna::ptx
