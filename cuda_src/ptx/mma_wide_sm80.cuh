// Tensor core products of TF32 and float64 elements, summed in float32 and float64.
// PTX ISA, "Matrix multiply-accumulate instructions": mma.sync.aligned.m16n8k8 and m8n8k4.
#pragma once

namespace cupyna::ptx {

// d[16, 8] += a[16, 8] b[8, 8]. A thread holds a at rows lane / 4 and lane / 4 + 8 of column
// lane % 4, then of column lane % 4 + 4; b at rows lane % 4 and lane % 4 + 4 of column lane / 4.
__device__ __forceinline__ void mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], unsigned b0,
                                            unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d[8, 8] += a[8, 4] b[4, 8]. A thread holds d at row lane / 4, columns 2 (lane % 4) and the next;
// a at row lane / 4, column lane % 4; b at row lane % 4, column lane / 4.
__device__ __forceinline__ void mma_m8n8k4(double& d0, double& d1, double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(d0), "+d"(d1)
               : "d"(a), "d"(b));
}

}  // namespace cupyna::ptx
