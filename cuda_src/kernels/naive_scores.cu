// Query x neighborhood: weights[i, slot] = scale * query[i] . key[neighbor slot of i] + bias.
#include "../mainloop/naive_scores.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS,
                                             cupyna::kProductBlocks<CUPYNA_DTYPE, CUPYNA_VECTOR>)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using Number = cupyna::Wide<CUPYNA_DTYPE>;
  __shared__ alignas(32) Number tiles[CUPYNA_THREADS / CUPYNA_LANES][cupyna::kTileRows][cupyna::kRun];
  cupyna::NaiveScores<CUPYNA_DTYPE, CUPYNA_VECTOR != 0, CUPYNA_LANES> product(params, tiles);
  const int heads = params.heads;
  for (int row = blockIdx.y; row < params.batch * heads; row += gridDim.y) {
    product.compute(row / heads, row % heads);
  }
}
