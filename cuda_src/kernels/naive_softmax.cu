// Softmax of each row of scores, in place, and its log-sum-exp.
#include "../softmax/naive_forward.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using namespace cupyna;
  using Number = CUPYNA_DTYPE;
  const Lanes lanes(params.lanes);
  const Row row(params, blockIdx.x * Lanes::groups(params.lanes) + lanes.group);
  for (int pair = blockIdx.y; pair < params.batch * params.heads; pair += gridDim.y) {
    const int batch = pair / params.heads;
    const int head = pair % params.heads;
    Softmax<Number> softmax;
    softmax.run(params.weights.at<Number>(batch, row.x, row.y, row.z, head), row, lanes);
    if (params.lse.data != nullptr && row.is_active && lanes.index == 0) {
      *params.lse.at<Number>(batch, row.x, row.y, row.z, head) =
          softmax.largest + logarithm(softmax.sum);
    }
  }
}
