// Tile x box for backward: gradients of queries, or of keys and values, without fragments in
// memory.
#include "../mainloop/gemm/gradients.cuh"

#ifndef CUPYNA_TF32  // where a launch tells
#define CUPYNA_TF32 0
#endif

constexpr cupyna::Side kSide = CUPYNA_KEYS ? cupyna::Side::kKey : cupyna::Side::kQuery;
using Product = cupyna::GemmGradients<CUPYNA_DTYPE, kSide, CUPYNA_CHANNELS, CUPYNA_TF32>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GemmParams params) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Product::Shared tables;
  Product(params, tables, memory).compute();
}
