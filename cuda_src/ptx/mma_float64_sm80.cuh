// Tensor core products of float64 elements.
// PTX ISA, "Matrix multiply-accumulate instructions": mma.sync.aligned.m8n8k4.
#pragma once

namespace cupyna::ptx {

// d[8, 8] += a[8, 4] b[4, 8]. A thread holds d at row lane / 4, columns 2 (lane % 4) and the next;
// a at row lane / 4, column lane % 4; b at row lane % 4, column lane / 4.
__device__ __forceinline__ void mma_m8n8k4(double& d0, double& d1, double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(d0), "+d"(d1)
               : "d"(a), "d"(b));
}

}  // namespace cupyna::ptx
