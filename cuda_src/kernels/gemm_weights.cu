// Query tile x key box for forward: weights as fragments.
#include "../mainloop/gemm/weights.cuh"

using Product = cupyna::GemmWeights<CUPYNA_DTYPE>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GemmParams params) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Product::Shared tables;
  Product(params, tables, memory).compute();
}
