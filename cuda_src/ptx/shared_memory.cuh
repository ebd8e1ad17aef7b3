// Between global memory, shared memory and matrix fragments.
// PTX ISA: cvta, ldmatrix, stmatrix, "Data movement and conversion: asynchronous copy".
#pragma once

namespace cupyna::ptx {

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// One, two or four words at an address that is a multiple of their bytes, in one instruction.
template <int kWords>
__device__ __forceinline__ void load_shared(unsigned (&words)[kWords], unsigned address) {
  struct alignas(4 * kWords) Words {
    unsigned at[kWords];
  };
  const Words from = *static_cast<const Words*>(__cvta_shared_to_generic(address));
#pragma unroll
  for (int i = 0; i < kWords; ++i) words[i] = from.at[i];
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix_x4(unsigned (&fragment)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&fragment)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(address)
               : "memory");
}

#if __CUDA_ARCH__ >= 900
// Stores what ldmatrix_x4 would load.
__device__ __forceinline__ void stmatrix_x4(unsigned address, const unsigned* fragment) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(fragment[0]), "r"(fragment[1]), "r"(fragment[2]), "r"(fragment[3])
               : "memory");
}
#endif

// Two floats at an address that is a multiple of 8, in one instruction: the compiler splits them.
__device__ __forceinline__ void store_pair(unsigned address, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(first), "f"(second)
               : "memory");
}

// 16 bytes past L1; where `bytes` is 0 nothing is read and zeros are written.
__device__ __forceinline__ void copy_async_16(unsigned target, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
               "r"(bytes)
               : "memory");
}

// 8 bytes, in the same way.
__device__ __forceinline__ void copy_async_8(unsigned target, const void* source, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(target), "l"(source), "r"(bytes)
               : "memory");
}

// 4 bytes, in the same way.
__device__ __forceinline__ void copy_async_4(unsigned target, const void* source, int bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(target), "l"(source), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most kPending of this thread's committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace cupyna::ptx
