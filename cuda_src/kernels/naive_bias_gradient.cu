// Entry point: the gradient of the bias, where gradients of scores lie in blocks of runs.
#include "../mainloop/naive/bias_gradient.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, 2)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  cupyna::sum_bias<cupyna::NaiveBiasGradient<CUPYNA_DTYPE>, CUPYNA_THREADS / 32>(params);
}
