// Entry point of the fused forward for small windows on Hopper.
#include "../mainloop/window/forward_sm90.cuh"

using Forward = cupyna::WindowForwardSm90<CUPYNA_DTYPE, CUPYNA_HEAD_DIM, CUPYNA_LINE, CUPYNA_SLOTS,
                                          CUPYNA_CONSUMERS>;
static_assert(Forward::kThreads == CUPYNA_THREADS, "the manifest knows the threads");

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, 1)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::WindowRingParams params) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Forward(params, memory).run();
}
