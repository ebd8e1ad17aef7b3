// Entry point of the fused forward for few keys, on CUDA cores.
#include "../mainloop/direct/forward.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::DirectParams params) {
  __shared__ cupyna::DirectGroup groups[CUPYNA_THREADS / CUPYNA_LANES];
  cupyna::DirectForward<CUPYNA_DTYPE, CUPYNA_LANES, CUPYNA_ROWS, CUPYNA_COLUMNS>(params, groups)
      .compute();
}
