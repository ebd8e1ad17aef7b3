// Weights^T x query box: gradients of keys and values.
#include "../mainloop/gemm/inverse.cuh"

using Product = cupyna::GemmInverse<CUPYNA_DTYPE, CUPYNA_CHANNELS>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GemmParams params) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Product::Shared tables;
  __shared__ Product::Offsets offsets;
  Product(params, tables, offsets, memory).compute();
}
