// Entry point of the fused backward on tensor cores of any GPU since Ampere: the gradients of one
// side, queries (0) or keys and values (1), or of both in a pass over keys (2).
#include "../mainloop/fused/gradient_sm80.cuh"

#ifndef CUPYNA_TF32  // products of TF32 numbers that make one of float32
#define CUPYNA_TF32 0
#endif

using Gradient =
    cupyna::FusedGradientSm80<CUPYNA_DTYPE, static_cast<cupyna::Flavor>(CUPYNA_TF32),
                              CUPYNA_SIDE == 0 ? cupyna::Side::kQuery : cupyna::Side::kKey,
                              CUPYNA_HEAD_DIM, CUPYNA_ROW_TILES,
                              CUPYNA_THREADS / 32 / CUPYNA_SHARES, CUPYNA_COLUMNS, CUPYNA_BLOCK,
                              CUPYNA_SIDE == 2, CUPYNA_SHARES>;
static_assert(sizeof(Gradient::Shared) <= CUPYNA_SMEM_BYTES, "the manifest knows the size");

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GradientParams params) {
  extern __shared__ __align__(128) unsigned char memory[];
  Gradient(params, *reinterpret_cast<Gradient::Shared*>(memory)).run();
}
