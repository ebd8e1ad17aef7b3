// Query x neighborhood: scale * query . key + bias for every query and key of its window.
#include "../mainloop/naive/scores.cuh"

extern "C" __global__ void __launch_bounds__(
    CUPYNA_THREADS, cupyna::kProductBlocks<CUPYNA_DTYPE, CUPYNA_VECTOR, CUPYNA_LANES>)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  cupyna::NaiveScores<CUPYNA_DTYPE, CUPYNA_VECTOR != 0, CUPYNA_LANES> product(params);
  for (int pair = blockIdx.y; pair < params.batch * params.heads; pair += gridDim.y) {
    product.compute(pair / params.heads, pair % params.heads);
  }
}
