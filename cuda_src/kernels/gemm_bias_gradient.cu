// Entry point: the gradient of the bias, where gradients of scores lie in rows.
#include "../mainloop/gemm/bias_gradient.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GemmParams params) {
  cupyna::sum_bias<cupyna::GemmBiasGradient<CUPYNA_DTYPE>, CUPYNA_THREADS / 32>(params);
}
