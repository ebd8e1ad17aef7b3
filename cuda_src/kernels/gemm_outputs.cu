// Weights x key box: outputs, or gradients of queries.
#include "../mainloop/gemm/outputs.cuh"

using Product = cupyna::GemmOutputs<CUPYNA_DTYPE, CUPYNA_CHANNELS>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GemmParams params) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Product::Shared tables;
  Product(params, tables, memory).compute();
}
