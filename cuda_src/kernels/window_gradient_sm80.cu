// Entry point of the fused backward for small windows: the gradients of one side, queries (0) or
// keys and values (1), on tensor cores of any GPU since Ampere.
#include "../mainloop/window/gradient_sm80.cuh"

using Gradient =
    cupyna::WindowGradientSm80<CUPYNA_DTYPE, CUPYNA_HEAD_DIM, CUPYNA_SLOTS,
                               CUPYNA_SIDE == 0 ? cupyna::Side::kQuery : cupyna::Side::kKey>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::WindowGradientParams params) {
  extern __shared__ __align__(128) unsigned char memory[];
  Gradient(params, memory).run();
}
