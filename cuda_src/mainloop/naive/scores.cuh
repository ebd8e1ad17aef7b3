// Query x neighborhood: scores, or gradients of weights.
//
// A group of lanes holds the rows of one run of queries in registers, a share of the channels in
// each lane, and walks the box of keys that the run sees. Each key is read once for the whole run;
// the products of a lane are summed over the group for several keys together, so that their loads
// and shuffles do not wait for each other.
#pragma once

#include "../../common/channels.cuh"
#include "../../common/warp.cuh"
#include "box.cuh"

namespace cupyna {

template <typename T, bool kIsVector, int kLanes>
struct NaiveScores {
  using Number = Wide<T>;
  using Lane = Channels<T, kIsVector>;

  const Params& params;
  const Lanes lanes;
  const Run run;
  const QueryBox box;
  const int own;  // the query whose sums this lane gets
  const OwnWindow window;
  Number queries[kRun][kLaneChannels];

  __device__ explicit NaiveScores(const Params& given)
      : params(given),
        lanes(kLanes),
        run(given, blockIdx.x * Lanes::groups(kLanes) + lanes.group, given.items),
        box(run),
        own(lanes.index % kRun),
        window(run, own) {}

  __device__ void compute(int batch, int head) {
    if (params.blocks == 1) {
      load_queries(batch, head, 0);
      walk<true>(batch, head);
    } else {
      walk<false>(batch, head);
    }
  }

 private:
  // One place along x and y: the rows of its keys, and where their scores go.
  struct Line {
    RowWalk<T> keys;
    const T* bias;
    Number* scores;
    bool is_inside;
  };

  template <bool kIsWhole>
  __device__ __forceinline__ void walk(int batch, int head) {
    const Lane lane(params.key, params.channels, kLanes, lanes.index, 0);
    Line line;
    line.scores = block_of<Number>(params, params.weights, batch, head, run.index)->query;
    const long long y_step = run.y.dilation * params.key.axis[1];
    const int x_slots = params.axis[0].kernel_size;
    const int y_slots = params.axis[1].kernel_size;
    for (int x_slot = 0; x_slot < x_slots; ++x_slot) {
      const T* row =
          params.key.at<const T>(batch, box.x_token(run, x_slot), run.y.token(box.y_begin),
                                 run.z.token(box.begin), head / params.head_group);
      if (kIsWhole) row += lane.first;
      for (int y_slot = 0; y_slot < y_slots; ++y_slot) {
        line.keys = RowWalk<T>{row, run.z.dilation * params.key.axis[2], box.last - box.begin};
        line.is_inside = box.is_inside(x_slot, y_slot);
        line.bias = params.bias.data == nullptr ? nullptr : bias_at(x_slot, y_slot, head);
        // The number of keys is even.
        int key = 0;
        for (; key < params.keys - 2; key += 4) multiply<4, kIsWhole>(batch, head, lane, line, key);
        if (key < params.keys) multiply<2, kIsWhole>(batch, head, lane, line, key);
        line.scores += params.keys * kRun;
        // Causal windows shrink: slots past their end name the last key again.
        if (box.y_begin + y_slot + 1 < box.y_end) row += y_step;
      }
    }
  }

  __device__ __forceinline__ const T* bias_at(int x_slot, int y_slot, int head) const {
    return params.bias.at<const T>(
        0, box.x_begin + x_slot - run.x.position + run.x.line.kernel_size - 1,
        box.y_begin + y_slot - run.y.position + run.y.line.kernel_size - 1, 0, head);
  }

  __device__ __forceinline__ void load_queries(int batch, int head, int block) {
    const Lane lane(params.query, params.channels, kLanes, lanes.index, block);
    const T* rows = lane.first + params.query.at<const T>(batch, run.x.token(run.x.position),
                                                          run.y.token(run.y.position), 0, head);
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      // A short run repeats its last query; nothing sees the scores of the copies.
      const int position = min_of(run.z.position + t, run.last());
      lane.load(rows + run.z.token(position) * params.query.axis[2], queries[t]);
    }
  }

  // Scores of kKeys keys of the box, from number `first` on.
  template <int kKeys, bool kIsWhole>
  __device__ __forceinline__ void multiply(int batch, int head, const Lane& lane, Line& line,
                                           int first) {
    Number sums[kKeys * kRun] = {};
    if (kIsWhole) {
      add<kKeys>(lane, line.keys, sums);
    } else {
      RowWalk<T> keys = line.keys;
      for (int block = 0; block < params.blocks; ++block) {
        load_queries(batch, head, block);
        const Lane part(params.key, params.channels, kLanes, lanes.index, block);
        keys = line.keys;
        keys.row += part.first;
        add<kKeys>(part, keys, sums);
        keys.row -= part.first;
      }
      line.keys = keys;
    }
    deal_sums<kLanes>(sums, lanes.index);
    constexpr int kShares = kLanes < kKeys * kRun ? kLanes : kKeys * kRun;
    if (lanes.index < kShares && run.is_active) {
#pragma unroll
      for (int i = 0; i < kKeys * kRun / kShares; ++i) {
        const int key = first + (i * kShares + lanes.index) / kRun;
        if (key < params.keys)
          line.scores[key * kRun + own] = score(line, box.begin + key, sums[i]);
      }
    }
  }

  template <int kKeys>
  __device__ __forceinline__ void add(const Lane& lane, RowWalk<T>& keys,
                                      Number (&sums)[kKeys * kRun]) const {
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      Number key[kLaneChannels];
      lane.load(keys.row, key);
      keys.advance();
#pragma unroll
      for (int c = 0; c < kLaneChannels; ++c) {
#pragma unroll
        for (int t = 0; t < kRun; ++t) sums[i * kRun + t] += queries[t][c] * key[c];
      }
    }
  }

  __device__ __forceinline__ Number score(const Line& line, int key, Number sum) const {
    if (!line.is_inside || !window.contains(key)) return Number(params.empty);
    Number score = Number(params.scale) * sum;
    if (line.bias != nullptr) {
      const int entry = key - (run.z.position + own) + run.z.line.kernel_size - 1;
      score += widen(line.bias[entry * params.bias.axis[2]]);
    }
    return score;
  }
};

}  // namespace cupyna
