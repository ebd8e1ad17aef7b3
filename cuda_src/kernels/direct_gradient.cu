// Entry point of the fused backward for few keys: the gradients of one side, queries (0) or keys
// and values (1), on CUDA cores.
#include "../mainloop/direct/gradient.cuh"

using Gradient =
    cupyna::DirectGradient<CUPYNA_DTYPE, CUPYNA_LANES,
                           CUPYNA_SIDE == 0 ? cupyna::Side::kQuery : cupyna::Side::kKey,
                           CUPYNA_ROWS, CUPYNA_COLUMNS>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::DirectGradientParams params) {
  __shared__ cupyna::DirectGroup groups[CUPYNA_THREADS / CUPYNA_LANES];
  Gradient(params, groups).compute();
}
