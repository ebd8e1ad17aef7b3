// Entry point: the gradients of all queries from their sums.
#include "../mainloop/fused/rows.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GradientParams params) {
  cupyna::FusedRow<CUPYNA_DTYPE>(params).end();
}
