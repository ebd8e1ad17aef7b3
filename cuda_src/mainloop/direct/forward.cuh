// The fused forward for few keys: one pass with an online softmax, on CUDA cores.
#pragma once

#include "../../ptx/arithmetic.cuh"
#include "../../softmax/online.cuh"
#include "pairs.cuh"

namespace cupyna {

template <typename T, int kLanes, int kRows, int kColumns>
struct DirectForward {
  using Pairs = DirectPairs<T, kLanes, Side::kQuery, kRows, kColumns>;
  using Values = typename Pairs::Values;
  static constexpr int kOwn = Pairs::kOwn;

  // Numbers of the arrays of rows.
  static constexpr int kQ = 2, kOut = 3, kLse = 4;

  // A maximum stays while weights grow by less than this, in powers of two.
  static constexpr float kSlack = 8;

  const AttentionParams& params;
  const DirectGrid& grid;
  const Pairs pairs;

  // Of the lane's own row: scores are lowered by `shift`, and `total` sums the lane's own weights.
  float shift, total;
  Values outputs[kRows];

  __device__ DirectForward(const DirectParams& given, DirectGroup* groups)
      : params(given.attention), grid(given.grid), pairs(params, grid, groups) {
    pairs.lay_columns(0, params.k);
    pairs.lay_columns(1, params.v);
    pairs.lay_rows(kQ, params.q);
    pairs.lay_rows(kOut, params.out);
    pairs.lay_rows(kLse, params.lse);
    __syncwarp();
  }

  __device__ void compute() {
    for (unsigned plane = blockIdx.y; plane < grid.planes; plane += gridDim.y) {
      const unsigned batch = plane / grid.head_tiles;
      const unsigned tile = plane - batch * grid.head_tiles;
      attend(batch, (tile << grid.heads_log2) + pairs.run().head);
    }
  }

 private:
  __device__ __forceinline__ void attend(int batch, int head) {
    // The sign of the scale, which other kernels give to the queries; zero where the scale is.
    const float sign = params.query_keep == 0 ? 0.f : params.query_flip != 0 ? -1.f : 1.f;
    const float scale_log2 = sign * params.scale_log2;
    Values queries[kRows];
    pairs.load_rows(kQ, params.q, pairs.first_lane, batch, head, queries);
    const int key_head = params.head_group == 1 ? head : head / params.head_group;
    shift = -infinity();
    total = 0;
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
#pragma unroll
      for (int c = 0; c < kDirectChannels; ++c) outputs[t][c] = 0;
    }
    pairs.walk(params.k, params.v, batch, key_head,
               [&](const typename Pairs::Spot& spot, const typename Pairs::Columns& columns) {
                 float scores[Pairs::kPairs];
                 pairs.multiply(columns.first, queries, scores);
                 deal_sums<kLanes>(scores, pairs.lane);
                 float weights[kOwn];
#pragma unroll
                 for (int i = 0; i < kOwn; ++i) {
                   const bool is_seen = spot.own.contains(spot.column + pairs.own_column(i));
                   weights[i] = is_seen ? scores[i] * scale_log2 : -infinity();
                 }
                 if (params.bias.data != nullptr) pairs.add_bias(spot, head, weights);
                 raise(weights);
                 const float lowered_by = shift == -infinity() ? 0.f : shift;
#pragma unroll
                 for (int i = 0; i < kOwn; ++i) {
                   weights[i] = ptx::exp2_approx(weights[i] - lowered_by);
                   total += weights[i];
                 }
                 pairs.add(columns.second, weights, outputs);
               });
    store(batch, head);
  }

  // Lowers what was summed so far where a score is far above all before.
  __device__ __forceinline__ void raise(const float (&scores)[kOwn]) {
    float most = scores[0];
#pragma unroll
    for (int i = 1; i < kOwn; ++i) most = fmaxf(most, scores[i]);
    most = Pairs::over_row(most, [](float a, float b) { return fmaxf(a, b); });
    const bool rises = most > shift + kSlack;
    if (!__any_sync(kAllLanes, rises)) return;
    const float next = rises ? most : shift;
    const float factor = shift == -infinity() ? 0.f : ptx::exp2_approx(shift - next);
    shift = next;
    total *= factor;
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      const float of_row = pairs.of_lane(factor, t);
#pragma unroll
      for (int c = 0; c < kDirectChannels; ++c) outputs[t][c] *= of_row;
    }
  }

  __device__ __forceinline__ void store(int batch, int head) {
    total = Pairs::over_row(total, [](float a, float b) { return a + b; });
    float factors[kRows];
#pragma unroll
    for (int t = 0; t < kRows; ++t) factors[t] = 1 / pairs.of_lane(total, t);
    pairs.store_rows(kOut, params.out, pairs.second_lane, batch, head, outputs, factors);
    if (params.lse.data != nullptr && static_cast<int>(pairs.lane) < pairs.run().count) {
      float* const lse = pairs.template begin<float>(kLse, params.lse, batch, head);
      lse[pairs.lane * pairs.row_step(params.lse)] = (shift + log2f(total)) * kLn2;
    }
  }
};

}  // namespace cupyna
