// What the two products with weights share: rows of partners, summed for each token of a run.
#pragma once

#include "../common/channels.cuh"
#include "naive_box.cuh"

namespace cupyna {

template <typename T, bool kIsVector>
struct RunSums {
  using Number = Wide<T>;

  Number sums[kRun][kLaneChannels] = {};

  // Adds `count` rows, `step` elements apart, under the weights in `tile`. Rows past `last` repeat
  // it: their weights are zero. `row` points at the lane's first channel of the first row.
  __device__ __forceinline__ void add(const Channels<T, kIsVector>& lane, const T* row,
                                      long long step, int last, int count,
                                      const Quad<Number>* tile) {
#pragma unroll 2
    for (int j = 0; j < count; ++j) {
      Number channels[kLaneChannels];
      lane.load(row, channels);
      if (j < last) row += step;
      const Quad<Number> weights = tile[j];
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
#pragma unroll
        for (int c = 0; c < kLaneChannels; ++c) sums[t][c] += weights.query[t] * channels[c];
      }
    }
  }

  __device__ __forceinline__ void store(const Array& array, const Params& params, const Run& run,
                                        const Lanes& lanes, int batch, int head) const {
    const Channels<T, kIsVector> lane(array, params.channels, lanes.count, lanes.index, run.block);
    T* rows =
        lane.first + array.at<T>(batch, run.x.token(run.x.position), run.y.token(run.y.position),
                                 run.z.token(run.z.position), head);
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      if (t < run.count) {
        lane.store(rows + t * run.z.dilation * array.axis[2], sums[t], Number(params.scale));
      }
    }
  }
};

}  // namespace cupyna
