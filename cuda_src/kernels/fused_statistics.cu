// Entry point: statistics of every query, and sums of its gradient that begin at zero.
#include "../mainloop/fused/rows.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GradientParams params) {
  cupyna::FusedRow<CUPYNA_DTYPE>(params).begin();
}
