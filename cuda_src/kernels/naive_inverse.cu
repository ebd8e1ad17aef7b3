// Weights x inverse neighborhood: scale * sum of weights of a key times the queries that see it.
#include "../mainloop/naive/inverse.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS,
                                             cupyna::kProductBlocks<CUPYNA_DTYPE, CUPYNA_VECTOR>)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using namespace cupyna;
  using Product = NaiveInverse<CUPYNA_DTYPE, CUPYNA_VECTOR != 0>;
  // At least four lanes share a run.
  __shared__ Product::Buffers buffers[CUPYNA_THREADS / 4];
  Product product(params, buffers);
  const int heads = params.heads / params.head_group;
  for (int pair = blockIdx.y; pair < params.batch * heads; pair += gridDim.y) {
    product.compute(pair / heads, pair % heads);
  }
}
