// Scores and gradients of weights -> weights P = exp(S - lse) and gradients of scores
// dS = P (dP - rowsum(dO O) + dlse), both in place.
#include "../geometry/run.cuh"
#include "../softmax/naive_backward.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS,
                                             cupyna::kMoverBlocks<CUPYNA_DTYPE, CUPYNA_VECTOR>)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using namespace cupyna;
  using T = CUPYNA_DTYPE;
  using Number = Wide<T>;
  const Lanes lanes(params.lanes);
  const Run run(params, blockIdx.x * Lanes::groups(params.lanes) + lanes.group, params.items);
  const int x = run.x.token(run.x.position);
  const int y = run.y.token(run.y.position);
  for (int pair = blockIdx.y; pair < params.batch * params.heads; pair += gridDim.y) {
    const int batch = pair / params.heads;
    const int head = pair % params.heads;
    Number lse = 0;
    Number delta = 0;
#pragma unroll 1
    for (int t = 0; t < kRun; ++t) {
      // All lanes of a warp sum together, also for rows that are not there.
      const int z = run.z.token(min_of(run.z.position + t, run.last()));
      const Number sum = product_of_rows<T, CUPYNA_VECTOR != 0>(
          params, lanes, params.query.at<const T>(batch, x, y, z, head),
          params.output.at<const T>(batch, x, y, z, head));
      if (lanes.index == t) {
        lse = *params.lse.at<const Number>(batch, x, y, z, head);
        delta = sum;
        if (params.dlse.data != nullptr) {
          delta -= *params.dlse.at<const Number>(batch, x, y, z, head);
        }
      }
    }
    const RowStatistics<Number> rows(lse, delta, lanes);
    if (!run.is_active) continue;
    softmax_backward<3>(block_of<Number>(params, params.weights, batch, head, run.index),
                        block_of<Number>(params, params.gradient, batch, head, run.index),
                        quads_of_block(params), rows, lanes);
  }
}
