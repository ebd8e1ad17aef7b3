// Weights x inverse neighborhood: key[j] = scale * sum of weights[i, slot] query[i] over the i that
// see j.
#include "../mainloop/naive_inverse.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS,
                                             cupyna::kProductBlocks<CUPYNA_DTYPE, CUPYNA_VECTOR>)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using Number = cupyna::Wide<CUPYNA_DTYPE>;
  // At least four lanes share a run.
  __shared__ alignas(32) Number tiles[CUPYNA_THREADS / 4][cupyna::kTileRows][cupyna::kRun];
  cupyna::NaiveInverse<CUPYNA_DTYPE, CUPYNA_VECTOR != 0> product(params, tiles);
  const int heads = params.heads / params.head_group;
  for (int row = blockIdx.y; row < params.batch * heads; row += gridDim.y) {
    product.compute(row / heads, row % heads);
  }
}
