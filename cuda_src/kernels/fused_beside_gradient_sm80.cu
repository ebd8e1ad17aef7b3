// Entry point of the fused backward of keys that every query sees beside its window: what they add
// to the gradients of queries (side 0), or their own and their values' (1).
#include "../mainloop/fused/gradient_sm80.cuh"

#ifndef CUPYNA_TF32  // products of TF32 numbers that make one of float32
#define CUPYNA_TF32 0
#endif

using Gradient = cupyna::FusedGradientSm80<
    CUPYNA_DTYPE, static_cast<cupyna::Flavor>(CUPYNA_TF32),
    CUPYNA_SIDE == 0 ? cupyna::Side::kQuery : cupyna::Side::kKey, CUPYNA_HEAD_DIM, CUPYNA_ROW_TILES,
    CUPYNA_THREADS / 32 / CUPYNA_SHARES, CUPYNA_COLUMNS, CUPYNA_BLOCK, false, CUPYNA_SHARES, true>;
static_assert(sizeof(Gradient::Shared) <= CUPYNA_SMEM_BYTES, "the manifest knows the size");

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::BesideGradientParams params) {
  extern __shared__ __align__(128) unsigned char memory[];
  Gradient(params, *reinterpret_cast<Gradient::Shared*>(memory)).run();
}
