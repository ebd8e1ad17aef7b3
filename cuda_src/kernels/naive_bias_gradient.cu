// Gradient of the bias: the gradients of scores, summed by relative position.
//
// A block owns 32 neighboring entries along the last axis, one for each lane. Its warps take runs
// of queries in turn and read the slots that name these entries, which are neighbors in memory. The
// partial sums of the warps are added in the order of the warps: every run gives the same bits.
#include "../mainloop/naive/bias_gradient.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, 2)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  using namespace cupyna;
  using T = CUPYNA_DTYPE;
  constexpr int kWarps = CUPYNA_THREADS / 32;
  __shared__ Wide<T> sums[kWarps][32];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  for (int head = blockIdx.y; head < params.heads; head += gridDim.y) {
    const NaiveBiasGradient<T> entry(params, blockIdx.x, lane);
    sums[warp][lane] = entry.sum(head, warp, kWarps);
    __syncthreads();
    if (warp == 0 && entry.exists()) {
      Wide<T> total = 0;
      for (int i = 0; i < kWarps; ++i) total += sums[i][lane];
      entry.store(head, total);
    }
    __syncthreads();
  }
}
