// Softmax of each row of scores, in place, and its log-sum-exp.
#include "../geometry/run.cuh"
#include "../softmax/naive_forward.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, cupyna::kMoverBlocks<CUPYNA_DTYPE>)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using namespace cupyna;
  using Number = CUPYNA_DTYPE;
  const Lanes lanes(params.lanes);
  const Run run(params, blockIdx.x * Lanes::groups(params.lanes) + lanes.group, params.items);
  // Groups without a run have no quads: they only follow the warp.
  const int quads = run.is_active ? quads_of_block(params) : 0;
  for (int pair = blockIdx.y; pair < params.batch * params.heads; pair += gridDim.y) {
    const int batch = pair / params.heads;
    const int head = pair % params.heads;
    Softmax<Number> softmax;
    softmax.run(block_of<Number>(params, params.weights, batch, head, run.index), quads, run.count,
                lanes);
    if (params.lse.data == nullptr || lanes.index != 0) continue;
    Number* lse = params.lse.at<Number>(batch, run.x.token(run.x.position),
                                        run.y.token(run.y.position), 0, head);
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      if (t < run.count) {
        lse[run.z.token(run.z.position + t) * params.lse.axis[2]] =
            softmax.largest[t] + logarithm(softmax.sums[t]);
      }
    }
  }
}
