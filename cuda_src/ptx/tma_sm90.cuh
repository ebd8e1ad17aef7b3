// The copy engine for boxes of arrays.
// PTX ISA, "Data movement and conversion: cp.async.bulk.tensor, prefetch.tensormap".
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

}  // namespace cupyna::ptx
