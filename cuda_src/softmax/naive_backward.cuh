// Weights and gradients of scores of the rows of a run, in place of scores and gradients of
// weights. A lane takes whole quads: four rows at a time.
#pragma once

#include "../common/blocks.cuh"
#include "../common/channels.cuh"
#include "../common/warp.cuh"

namespace cupyna {

// Sum of dO * O over the channels of a row.
template <typename T, bool kIsVector>
__device__ __forceinline__ Wide<T> product_of_rows(const Params& params, const Lanes& lanes,
                                                   const T* dout, const T* out) {
  Wide<T> sum = 0;
  for (int block = 0; block < params.blocks; ++block) {
    const Channels<T, kIsVector> of_dout(params.query, params.channels, lanes.count, lanes.index,
                                         block);
    const Channels<T, kIsVector> of_out(params.output, params.channels, lanes.count, lanes.index,
                                        block);
    Wide<T> a[kLaneChannels];
    Wide<T> b[kLaneChannels];
    of_dout.load(dout + of_dout.first, a);
    of_out.load(out + of_out.first, b);
#pragma unroll
    for (int c = 0; c < kLaneChannels; ++c) sum += a[c] * b[c];
  }
  return lanes.sum(sum);
}

// What softmax backward needs of each row of a run.
template <typename Number>
struct RowStatistics {
  Number lse[kRun];
  Number delta[kRun];  // rowsum(dO * O) - dlse

  // Lane t of the group has those of row t.
  __device__ RowStatistics(Number own_lse, Number own_delta, const Lanes& lanes) {
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      lse[t] = __shfl_sync(kAllLanes, own_lse, t, lanes.count);
      delta[t] = __shfl_sync(kAllLanes, own_delta, t, lanes.count);
    }
  }
};

// S -> P = exp(S - lse) and dP -> dS = P (dP - delta). kQuads quads are in flight at a time.
template <int kQuads, typename Number>
__device__ __forceinline__ void softmax_backward(Quad<Number>* scores, Quad<Number>* gradients,
                                                 int quads, const RowStatistics<Number>& rows,
                                                 const Lanes& lanes) {
  for (int first = lanes.index; first < quads; first += kQuads * lanes.count) {
    Quad<Number> weight[kQuads];
    Quad<Number> gradient[kQuads];
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int quad = first + i * lanes.count;
      if (quad < quads) {
        weight[i] = scores[quad];
        gradient[i] = gradients[quad];
      }
    }
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int quad = first + i * lanes.count;
      if (quad >= quads) break;
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
        weight[i].query[t] = exponential(weight[i].query[t] - rows.lse[t]);
        gradient[i].query[t] = weight[i].query[t] * (gradient[i].query[t] - rows.delta[t]);
      }
      scores[quad] = weight[i];
      gradients[quad] = gradient[i];
    }
  }
}

}  // namespace cupyna
