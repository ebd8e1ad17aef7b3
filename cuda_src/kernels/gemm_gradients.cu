// Tile x box, twice: fragments of weights and of gradients of scores, from tiles of either side.
#include "../mainloop/gemm/gradients.cuh"

using Product =
    cupyna::GemmGradients<CUPYNA_DTYPE, CUPYNA_KEYS ? cupyna::Side::kKey : cupyna::Side::kQuery>;

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, CUPYNA_BLOCKS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::GemmParams params) {
  extern __shared__ __align__(128) char memory[];
  __shared__ Product::Shared tables;
  Product(params, tables, memory).compute();
}
