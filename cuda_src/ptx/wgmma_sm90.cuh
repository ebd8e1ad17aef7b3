// Matrix products of a warpgroup: four warps with 64 rows, 16-bit elements, float32 sums.
// PTX ISA, "Asynchronous warpgroup level matrix multiply-accumulate instructions".
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace cupyna::ptx {

using Descriptor = unsigned long long;

// Gives a warpgroup other registers than the kernel was launched with.
template <int kRegisters>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Orders ordinary accesses of the operands' registers before the products that follow.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most kPending of the committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// A matrix in shared memory as rows of 128 bytes under the 128-byte swizzle, eight rows to 1024
// bytes ("matrix descriptor": start, leading and stride offset in 16 bytes, and the swizzle).
// Where rows run along the summed index (K-major) the leading offset has no meaning. Where they run
// across it (MN-major) it is the distance between blocks of 64 columns.
__device__ __forceinline__ Descriptor matrix_descriptor(unsigned address, unsigned leading_bytes) {
  constexpr Descriptor kSwizzle128 = Descriptor(1) << 62;
  constexpr Descriptor kEightRows = Descriptor(1024 >> 4) << 32;
  return kSwizzle128 | kEightRows | Descriptor(leading_bytes >> 4) << 16 |
         Descriptor((address & 0x3ffff) >> 4);
}

// d[64, N] (+)= a[64, 16] b[16, N]. A thread holds d at rows lane / 4 and lane / 4 + 8 of its
// warp's sixteen and columns 8 j + 2 (lane % 4) + {0, 1}: d[4 j + 2 half + {0, 1}].
template <typename T, int kColumns>
struct Wgmma;

// The macros name operands by number: assembly has no loops.
#define CUPYNA_2(t) "%" #t "0,%" #t "1"
#define CUPYNA_4(t) CUPYNA_2(t) ",%" #t "2,%" #t "3"
#define CUPYNA_6(t) CUPYNA_4(t) ",%" #t "4,%" #t "5"
#define CUPYNA_8(t) CUPYNA_6(t) ",%" #t "6,%" #t "7"
#define CUPYNA_10(t) CUPYNA_8(t) ",%" #t "8,%" #t "9"
#define CUPYNA_30 CUPYNA_10() "," CUPYNA_10(1) "," CUPYNA_10(2)
#define CUPYNA_60 CUPYNA_30 "," CUPYNA_10(3) "," CUPYNA_10(4) "," CUPYNA_10(5)
#define CUPYNA_90 CUPYNA_60 "," CUPYNA_10(6) "," CUPYNA_10(7) "," CUPYNA_10(8)

#define CUPYNA_D8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define CUPYNA_D16(i) CUPYNA_D8(i), CUPYNA_D8(i + 8)
#define CUPYNA_D32(i) CUPYNA_D16(i), CUPYNA_D16(i + 16)
#define CUPYNA_D64(i) CUPYNA_D32(i), CUPYNA_D32(i + 32)

#define CUPYNA_NAMES_32 CUPYNA_10() "," CUPYNA_6(1)
#define CUPYNA_NAMES_64 CUPYNA_30 "," CUPYNA_2(3)
#define CUPYNA_NAMES_80 CUPYNA_30 "," CUPYNA_10(3)
#define CUPYNA_NAMES_96 CUPYNA_30 "," CUPYNA_10(3) "," CUPYNA_8(4)
#define CUPYNA_NAMES_112 CUPYNA_30 "," CUPYNA_10(3) "," CUPYNA_10(4) "," CUPYNA_6(5)
#define CUPYNA_NAMES_128 CUPYNA_60 "," CUPYNA_4(6)
#define CUPYNA_NAMES_160 CUPYNA_60 "," CUPYNA_10(6) "," CUPYNA_10(7)
#define CUPYNA_NAMES_176 CUPYNA_60 "," CUPYNA_10(6) "," CUPYNA_10(7) "," CUPYNA_8(8)
#define CUPYNA_NAMES_192 CUPYNA_90 "," CUPYNA_6(9)
#define CUPYNA_NAMES_256 \
  CUPYNA_90 "," CUPYNA_10(9) "," CUPYNA_10(10) "," CUPYNA_10(11) "," CUPYNA_8(12)

#define CUPYNA_SUMS_32 CUPYNA_D16(0)
#define CUPYNA_SUMS_64 CUPYNA_D32(0)
#define CUPYNA_SUMS_80 CUPYNA_D32(0), CUPYNA_D8(32)
#define CUPYNA_SUMS_96 CUPYNA_D32(0), CUPYNA_D16(32)
#define CUPYNA_SUMS_112 CUPYNA_D32(0), CUPYNA_D16(32), CUPYNA_D8(48)
#define CUPYNA_SUMS_128 CUPYNA_D64(0)
#define CUPYNA_SUMS_160 CUPYNA_D64(0), CUPYNA_D16(64)
#define CUPYNA_SUMS_176 CUPYNA_D64(0), CUPYNA_D16(64), CUPYNA_D8(80)
#define CUPYNA_SUMS_192 CUPYNA_D64(0), CUPYNA_D32(64)
#define CUPYNA_SUMS_256 CUPYNA_D64(0), CUPYNA_D64(64)

// shared(): both matrices in shared memory, K-major. across(): both there, MN-major. registers(): a
// in registers, as sums of a product lie once they are packed, and b MN-major. n0 to n5 number what
// follows the sums.
#define CUPYNA_WGMMA_OF(T, type, columns, n0, n1, n2, n3, n4, n5)                                \
  template <>                                                                                    \
  struct Wgmma<T, columns> {                                                                     \
    static __device__ __forceinline__ void shared(float (&d)[columns / 2], Descriptor a,         \
                                                  Descriptor b, int accumulate) {                \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n2                                      \
                   ", 0;\n"                                                                      \
                   "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type         \
                   " {" CUPYNA_NAMES_##columns "}, %" #n0 ", %" #n1 ", p, 1, 1, 0, 0;\n}\n"      \
                   : CUPYNA_SUMS_##columns                                                       \
                   : "l"(a), "l"(b), "r"(accumulate));                                           \
    }                                                                                            \
    static __device__ __forceinline__ void across(float (&d)[columns / 2], Descriptor a,         \
                                                  Descriptor b, int accumulate) {                \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n2                                      \
                   ", 0;\n"                                                                      \
                   "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type         \
                   " {" CUPYNA_NAMES_##columns "}, %" #n0 ", %" #n1 ", p, 1, 1, 1, 1;\n}\n"      \
                   : CUPYNA_SUMS_##columns                                                       \
                   : "l"(a), "l"(b), "r"(accumulate));                                           \
    }                                                                                            \
    static __device__ __forceinline__ void registers(float (&d)[columns / 2], const unsigned* a, \
                                                     Descriptor b, int accumulate) {             \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #n5                                      \
                   ", 0;\n"                                                                      \
                   "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." type "." type         \
                   " {" CUPYNA_NAMES_##columns "}, {%" #n0 ",%" #n1 ",%" #n2 ",%" #n3 "}, %" #n4 \
                                               ", p, 1, 1, 1;\n}\n"                              \
                   : CUPYNA_SUMS_##columns                                                       \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));       \
    }                                                                                            \
  };
#define CUPYNA_WGMMA(columns, n0, n1, n2, n3, n4, n5)             \
  CUPYNA_WGMMA_OF(__half, "f16", columns, n0, n1, n2, n3, n4, n5) \
  CUPYNA_WGMMA_OF(__nv_bfloat16, "bf16", columns, n0, n1, n2, n3, n4, n5)

CUPYNA_WGMMA(32, 16, 17, 18, 19, 20, 21)
CUPYNA_WGMMA(64, 32, 33, 34, 35, 36, 37)
CUPYNA_WGMMA(80, 40, 41, 42, 43, 44, 45)
CUPYNA_WGMMA(96, 48, 49, 50, 51, 52, 53)
CUPYNA_WGMMA(112, 56, 57, 58, 59, 60, 61)
CUPYNA_WGMMA(128, 64, 65, 66, 67, 68, 69)
CUPYNA_WGMMA(160, 80, 81, 82, 83, 84, 85)
CUPYNA_WGMMA(176, 88, 89, 90, 91, 92, 93)
CUPYNA_WGMMA(192, 96, 97, 98, 99, 100, 101)
CUPYNA_WGMMA(256, 128, 129, 130, 131, 132, 133)

}  // namespace cupyna::ptx
