// Entry point of the fused forward for small windows, on tensor cores of any GPU since Ampere.
#include "../mainloop/window/forward_sm80.cuh"

using Forward = cupyna::WindowForwardSm80<CUPYNA_DTYPE, CUPYNA_HEAD_DIM, CUPYNA_SLOTS>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::WindowParams params) {
  extern __shared__ __align__(128) unsigned char memory[];
  Forward(params, memory).run();
}
