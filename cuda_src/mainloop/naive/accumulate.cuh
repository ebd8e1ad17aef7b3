// What the two products with weights share: rows of partners, summed for each token of a run.
#pragma once

#include "../../common/channels.cuh"
#include "box.cuh"

namespace cupyna {

template <typename T, bool kIsVector>
struct RunSums {
  using Number = Wide<T>;

  Number sums[kRun][kLaneChannels] = {};

  // Adds kRows rows; their loads do not wait for each other.
  template <int kRows>
  __device__ __forceinline__ void add(const Channels<T, kIsVector>& lane, RowWalk<T>& walk,
                                      const Number (&weights)[kRows][kRun]) {
    Number rows[kRows][kLaneChannels];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      lane.load(walk.row, rows[i]);
      walk.advance();
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
#pragma unroll
        for (int c = 0; c < kLaneChannels; ++c) sums[t][c] += weights[i][t] * rows[i][c];
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
