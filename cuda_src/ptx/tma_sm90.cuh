// The copy engine for boxes of arrays.
// PTX ISA, "Data movement and conversion: cp.async.bulk.tensor, prefetch.tensormap,
// cp.reduce.async.bulk, cp.async.bulk.wait_group".
#pragma once

namespace cupyna::ptx {

__device__ __forceinline__ void prefetch_tensor_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// The box at coordinates c0 (innermost) to c4 into shared memory; its bytes arrive at `barrier`.
// What lies outside the array is zero, and counts.
__device__ __forceinline__ void load_box_5d(unsigned target, const void* map, unsigned barrier,
                                            int c0, int c1, int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(target),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

// Adds float32 numbers in shared memory to as many in global memory; both aligned to 16 bytes.
__device__ __forceinline__ void add_bytes(float* target, unsigned source, unsigned bytes) {
  asm volatile(
      "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(target),
      "r"(source), "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void commit_bulk() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most kPending of this thread's committed groups still read shared memory.
template <int kPending>
__device__ __forceinline__ void wait_bulk_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

}  // namespace cupyna::ptx
