// The fused backward for few keys: the gradients of queries in one pass, those of keys and values
// in another over the inverse neighborhood. Nothing is added in memory: the same bits in every
// pairs.run.
//
// The pass over queries comes first. It leaves what the other one has to know of each query.
#pragma once

#include "../../ptx/arithmetic.cuh"
#include "pairs.cuh"

namespace cupyna {

template <typename T, int kLanes, Side kSide, int kRows, int kColumns>
struct DirectGradient {
  using Pairs = DirectPairs<T, kLanes, kSide, kRows, kColumns>;
  using Values = typename Pairs::Values;
  using Line = typename Pairs::Line;
  using Spot = typename Pairs::Spot;
  using Columns = typename Pairs::Columns;
  static constexpr int kOwn = Pairs::kOwn;

  // What backward knows of the queries of the lane's own pairs.
  struct Own {
    Statistics of_pair[kOwn];
  };

  // Numbers of the arrays of rows.
  static constexpr int kFirst = 2, kSecond = 3, kFirstGradient = 4, kSecondGradient = 5;
  static constexpr int kOut = 5, kLse = 6, kDlse = 7;

  const GradientParams& params;
  const DirectGrid& grid;
  const Pairs pairs;

  // Rows are queries and gradients of outputs, or keys and values.
  Values first_rows[kRows], second_rows[kRows];
  Values first_sums[kRows], second_sums[kRows];

  __device__ DirectGradient(const DirectGradientParams& given, DirectGroup* groups)
      : params(given.attention), grid(given.grid), pairs(params, grid, groups) {
    if constexpr (kSide == Side::kQuery) {
      pairs.lay_columns(0, params.k);
      pairs.lay_columns(1, params.v);
      pairs.lay_rows(kFirst, params.q);
      pairs.lay_rows(kSecond, params.dout);
      pairs.lay_rows(kFirstGradient, params.dq);
      pairs.lay_rows(kOut, params.out);
      pairs.lay_rows(kLse, params.lse);
      pairs.lay_rows(kDlse, params.dlse);
    } else {
      pairs.lay_columns(0, params.q);
      pairs.lay_columns(1, params.dout);
      pairs.lay_rows(kFirst, params.k);
      pairs.lay_rows(kSecond, params.v);
      pairs.lay_rows(kFirstGradient, params.dk);
      pairs.lay_rows(kSecondGradient, params.dv);
    }
    __syncwarp();
  }

  __device__ void compute() {
    for (unsigned plane = blockIdx.y; plane < grid.planes; plane += gridDim.y) {
      const unsigned batch = plane / grid.head_tiles;
      const unsigned tile = plane - batch * grid.head_tiles;
      const int head = (tile << grid.heads_log2) + pairs.run().head;
      clear(first_sums);
      if constexpr (kSide == Side::kQuery) {
        of_queries(batch, head);
      } else {
        of_keys(batch, head);
      }
    }
  }

 private:
  __device__ __forceinline__ void of_queries(int batch, int head) {
    pairs.load_rows(kFirst, params.q, pairs.first_lane, batch, head, first_rows);
    pairs.load_rows(kSecond, params.dout, pairs.second_lane, batch, head, second_rows);
    const Statistics own = statistics_of_rows(batch, head);
    const int key_head = params.head_group == 1 ? head : head / params.head_group;
    pairs.walk(params.k, params.v, batch, key_head, [&](const Spot& spot, const Columns& columns) {
      float weights[kOwn], gradients[kOwn];
      differentiate(columns, spot, head, [&](int) { return own; }, weights, gradients);
      pairs.add(columns.first, gradients, first_sums);
    });
    store(kFirstGradient, params.dq, pairs.first_lane, batch, head, first_sums, params.scale);
  }

  __device__ __forceinline__ void of_keys(int batch, int key_head) {
    pairs.load_rows(kFirst, params.k, pairs.first_lane, batch, key_head, first_rows);
    pairs.load_rows(kSecond, params.v, pairs.second_lane, batch, key_head, second_rows);
    clear(second_sums);
    const int past_head = (key_head + 1) * params.head_group;
    for (int head = key_head * params.head_group; head < past_head; ++head) {
      pairs.walk(
          params.q, params.dout, batch, head,
          [&](int x, int y) { return statistics_of_line(batch, head, x, y); },
          [&](const Statistics* of_line, const Line& line, int column) {
            return statistics_of_pairs(of_line, line, column);
          },
          [&](const Spot& spot, const Columns& columns, const Own& own) {
            float weights[kOwn], gradients[kOwn];
            differentiate(
                columns, spot, head, [&](int i) { return own.of_pair[i]; }, weights, gradients);
            pairs.add(columns.first, gradients, first_sums);
            pairs.add(columns.second, weights, second_sums);
          });
    }
    store(kFirstGradient, params.dk, pairs.first_lane, batch, key_head, first_sums, params.scale);
    store(kSecondGradient, params.dv, pairs.second_lane, batch, key_head, second_sums, 1);
  }

  // Weights of the lane's own pairs, and the gradients of their scores.
  template <typename Found>
  __device__ __forceinline__ void differentiate(const Columns& columns, const Spot& spot, int head,
                                                Found statistics, float (&weights)[kOwn],
                                                float (&gradients)[kOwn]) const {
    float scores[Pairs::kPairs], products[Pairs::kPairs];
    pairs.multiply(columns.first, first_rows, scores);
    pairs.multiply(columns.second, second_rows, products);
    deal_sums<kLanes>(scores, pairs.lane);
    deal_sums<kLanes>(products, pairs.lane);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) scores[i] *= params.scale_log2;
    if (params.bias.data != nullptr) pairs.add_bias(spot, head, scores);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int column = spot.column + pairs.own_column(i);
      const Statistics found = statistics(i);
      const bool is_met = spot.own.contains(column);
      const float weight = ptx::exp2_approx(scores[i] - found.lse_log2);
      weights[i] = is_met ? weight : 0.f;
      gradients[i] = is_met ? weight * (products[i] - found.delta) : 0.f;
    }
  }

  // What the pass over queries left of a line of them, from the first of the dilation group on.
  __device__ __forceinline__ const Statistics* statistics_of_line(int batch, int head, int x,
                                                                  int y) const {
    const DirectExtent(&along)[kAxes] = pairs.run().axis;
    return params.statistics + index_of(batch, head, along[0].group + x * params.axis[0].dilation,
                                        along[1].group + y * params.axis[1].dilation,
                                        along[2].group);
  }

  // Those of the lane's own pairs. They are on their way together with the columns: a load that is
  // asked for where it is needed costs a step as much as all others.
  __device__ __forceinline__ Own statistics_of_pairs(const Statistics* of_line, const Line& line,
                                                     int first_column) const {
    Own found;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int column = min_of(first_column + pairs.own_column(i), line.last);
      const Statistics* const at = of_line + column * params.axis[2].dilation;
      const float2 two = __ldg(reinterpret_cast<const float2*>(at));
      found.of_pair[i] = Statistics{two.x, two.y};
    }
    return found;
  }

  // What backward knows of the lane's own row; it is stored for the pass over keys.
  __device__ __forceinline__ Statistics statistics_of_rows(int batch, int head) const {
    Values outputs[kRows];
    pairs.load_rows(kOut, params.out, pairs.second_lane, batch, head, outputs);
    Statistics own{0, 0};
    const Lanes lanes(kLanes);
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      float delta = 0;
#pragma unroll
      for (int c = 0; c < kDirectChannels; ++c) delta += second_rows[t][c] * outputs[t][c];
      delta = lanes.sum(delta);
      if (t == pairs.own_row) own.delta = delta;
    }
    const DirectRun& run = pairs.run();
    // A short run repeats its last row.
    const int row = min_of(pairs.own_row, max_of(run.count - 1, 0));
    own.lse_log2 = pairs.template begin<const float>(kLse, params.lse, batch,
                                                     head)[row * pairs.row_step(params.lse)] *
                   kLog2E;
    if (params.dlse.data != nullptr) {
      own.delta -= pairs.template begin<const float>(kDlse, params.dlse, batch,
                                                     head)[row * pairs.row_step(params.dlse)];
    }
    if (static_cast<int>(pairs.lane) < run.count) {
      const AxisParams(&axis)[kAxes] = params.axis;
      const int z = run.token(axis, 2) + row * axis[2].dilation;
      params.statistics[index_of(batch, head, run.token(axis, 0), run.token(axis, 1), z)] = own;
    }
    return own;
  }

  // Place of a query in [batch, heads, tokens].
  __device__ __forceinline__ long long index_of(int batch, int head, int x, int y, int z) const {
    const int heads =
        (grid.head_tiles << grid.heads_log2) * (kSide == Side::kKey ? params.head_group : 1);
    const AxisParams(&axis)[kAxes] = params.axis;
    const long long plane = static_cast<long long>(batch) * heads + head;
    return ((plane * axis[0].length + x) * axis[1].length + y) * axis[2].length + z;
  }

  __device__ __forceinline__ void store(int index, const Array& array,
                                        const typename Pairs::Lane& of, int batch, int head,
                                        const Values (&sums)[kRows], float factor) const {
    float factors[kRows];
#pragma unroll
    for (int t = 0; t < kRows; ++t) factors[t] = factor;
    pairs.store_rows(index, array, of, batch, head, sums, factors);
  }

  static __device__ __forceinline__ void clear(Values (&sums)[kRows]) {
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
#pragma unroll
      for (int c = 0; c < kDirectChannels; ++c) sums[t][c] = 0;
    }
  }
};

}  // namespace cupyna
