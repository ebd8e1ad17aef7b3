// Entry point: every entry of the gradient of a bias from the sums that blocks left for it.
#include "../mainloop/fused/bias_sums.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, 2)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::BiasGradientParams params) {
  cupyna::FusedBiasSums<CUPYNA_DTYPE>(params).run();
}
