// Weights and gradients of scores of one row, in place of scores and gradients of weights.
#pragma once

#include "../common/channels.cuh"
#include "naive_row.cuh"

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

// S -> P = exp(S - lse) and dP -> dS = P (dP - delta).
template <typename Number>
__device__ __forceinline__ void softmax_backward(Quad<Number>* __restrict__ scores,
                                                 Quad<Number>* __restrict__ gradients, Number lse,
                                                 Number delta, const Row& row, const Lanes& lanes) {
#pragma unroll kQuads
  for (int quad = lanes.index; quad < row.quads(); quad += lanes.count) {
    Quad<Number> weight = scores[quad];
    Quad<Number> gradient = gradients[quad];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      weight.slot[e] = exponential(weight.slot[e] - lse);
      gradient.slot[e] = weight.slot[e] * (gradient.slot[e] - delta);
    }
    scores[quad] = weight;
    gradients[quad] = gradient;
  }
}

}  // namespace cupyna
