// Fragments of weights x box: outputs, and gradients of either side.
#include "../mainloop/gemm/values.cuh"

using Product = cupyna::GemmValues<CUPYNA_DTYPE, CUPYNA_CHANNELS>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GemmParams params) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Product::Shared tables;
  Product(params, tables, memory).compute();
}
