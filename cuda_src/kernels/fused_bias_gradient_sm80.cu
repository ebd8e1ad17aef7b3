// Entry point of the fused gradient of a bias, on tensor cores of any GPU since Ampere.
#include "../mainloop/fused/bias_gradient_sm80.cuh"

#ifndef CUPYNA_TF32  // products of TF32 numbers that make one of float32
#define CUPYNA_TF32 0
#endif

using Gradient =
    cupyna::FusedBiasGradientSm80<CUPYNA_DTYPE, static_cast<cupyna::Flavor>(CUPYNA_TF32),
                                  CUPYNA_HEAD_DIM, CUPYNA_THREADS / 32, CUPYNA_COLUMNS>;
static_assert(sizeof(Gradient::Shared) <= CUPYNA_SMEM_BYTES, "the manifest knows the size");

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::BiasGradientParams params) {
  extern __shared__ __align__(128) unsigned char memory[];
  Gradient(params, *reinterpret_cast<Gradient::Shared*>(memory)).run();
}
