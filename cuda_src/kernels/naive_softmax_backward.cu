// Scores and gradients of weights -> weights P = exp(S - lse) and gradients of scores
// dS = P (dP - rowsum(dO O) + dlse), both in place.
#include "../softmax/naive_backward.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using namespace cupyna;
  using T = CUPYNA_DTYPE;
  using Number = Wide<T>;
  const Lanes lanes(params.lanes);
  const Row row(params, blockIdx.x * Lanes::groups(params.lanes) + lanes.group);
  for (int pair = blockIdx.y; pair < params.batch * params.heads; pair += gridDim.y) {
    const int batch = pair / params.heads;
    const int head = pair % params.heads;
    Number delta = product_of_rows<T, CUPYNA_VECTOR != 0>(
        params, lanes, params.query.at<const T>(batch, row.x, row.y, row.z, head),
        params.output.at<const T>(batch, row.x, row.y, row.z, head));
    if (!row.is_active) continue;
    if (params.dlse.data != nullptr) {
      delta -= *params.dlse.at<const Number>(batch, row.x, row.y, row.z, head);
    }
    const Number lse = *params.lse.at<const Number>(batch, row.x, row.y, row.z, head);
    softmax_backward(as_quads(params.weights.at<Number>(batch, row.x, row.y, row.z, head)),
                     as_quads(params.gradient.at<Number>(batch, row.x, row.y, row.z, head)), lse,
                     delta, row, lanes);
  }
}
