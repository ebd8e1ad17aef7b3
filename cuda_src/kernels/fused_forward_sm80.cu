// Entry point of the fused forward on tensor cores of any GPU since Ampere.
#include "../mainloop/fused/forward_sm80.cuh"

#ifndef CUPYNA_TF32  // products of TF32 numbers that make one of float32
#define CUPYNA_TF32 0
#endif
#ifndef CUPYNA_SHARES  // warps that have the same rows
#define CUPYNA_SHARES 1
#endif

using Forward =
    cupyna::FusedForwardSm80<CUPYNA_DTYPE, static_cast<cupyna::Flavor>(CUPYNA_TF32),
                             CUPYNA_HEAD_DIM, CUPYNA_ROW_TILES, CUPYNA_THREADS / 32 / CUPYNA_SHARES,
                             CUPYNA_COLUMNS, CUPYNA_BLOCK, CUPYNA_SHARES>;
static_assert(sizeof(Forward::Shared) <= CUPYNA_SMEM_BYTES, "the manifest knows the size");

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::ForwardParams params) {
  extern __shared__ __align__(128) unsigned char memory[];
  Forward(params, *reinterpret_cast<Forward::Shared*>(memory)).run();
}
