// Weights x inverse neighborhood: gradients of keys and values.
//
// A group of lanes owns a run of keys and sums the rows of all queries that see one of them, for
// every query head that shares the key head. Nothing is added from elsewhere, so there is no
// atomic and every run gives the same bits.
#pragma once

#include "../common/warp.cuh"
#include "../common/weights.cuh"
#include "naive_accumulate.cuh"
#include "naive_box.cuh"

namespace cupyna {

template <typename T, bool kIsVector>
struct NaiveInverse {
  using Number = Wide<T>;

  const Params& params;
  const Lanes lanes;
  const Run run;
  const KeyBox box;
  const Channels<T, kIsVector> lane;
  Number (*tile)[kRun];  // [query of the chunk][key of the run]

  __device__ NaiveInverse(const Params& given, Number (*tiles)[kTileRows][kRun])
      : params(given),
        lanes(given.lanes),
        run(given, blockIdx.x * Lanes::groups(given.lanes) + lanes.group),
        box(run),
        lane(given.query, given.channels, lanes.count, lanes.index, run.block),
        tile(tiles[lanes.group]) {}

  __device__ void compute(int batch, int key_head) {
    RunSums<T, kIsVector> gradients;
    for (int h = 0; h < params.head_group; ++h) {
      const int head = key_head * params.head_group + h;
      for (int x_step = 0; x_step < box.x_steps; ++x_step) {
        for (int y_step = 0; y_step < box.y_steps; ++y_step) {
          add_line(gradients, batch, head, x_step, y_step);
        }
      }
    }
    gradients.store(params.key, params, run, lanes, batch, key_head);
  }

 private:
  // All queries along the last axis at one place of the other two.
  __device__ __forceinline__ void add_line(RunSums<T, kIsVector>& gradients, int batch, int head,
                                           int x_step, int y_step) const {
    const int x = box.x_query(x_step);
    const int y = box.y_query(y_step);
    const bool is_inside = box.is_inside(x_step, y_step);
    const int x_slot = run.x.position - run.x.line.window_begin(x);
    const int y_slot = run.y.position - run.y.line.window_begin(y);
    const int slots = (x_slot * run.y.line.kernel_size + y_slot) * run.z.line.kernel_size;
    const int z_token = run.z.token(box.begin);
    const T* rows =
        lane.first + params.query.at<const T>(batch, run.x.token(x), run.y.token(y), z_token, head);
    const long long step = run.z.dilation * params.query.axis[2];
    const long long weights =
        offset_of(params.weights, batch, run.x.token(x), run.y.token(y), z_token, head);
    const int last = box.end - 1 - box.begin;
    for (int first = 0; first < box.steps; first += kChunk) {
      const int count = min_of(kChunk, box.steps - first);
      with_weights<T>(params, weights,
                      [&](const auto* stored) { fill(stored, is_inside, slots, first, count); });
      __syncwarp();
      // Clamped, so that no lane points past the box.
      gradients.add(lane, rows + min_of(first, last) * step, step, last - first, count, tile);
      __syncwarp();
    }
  }

  // `stored` points at slot 0 of the first query of the box.
  template <typename Stored>
  __device__ __forceinline__ void fill(const Stored* stored, bool is_inside, int slots, int first,
                                       int count) const {
    const long long stride = params.weights.channel;
    const long long step = run.z.dilation * params.weights.axis[2];
#pragma unroll 2
    for (int j = lanes.index; j < count; j += lanes.count) {
      const int query = box.begin + first + j;
      const bool exists = is_inside && query < box.end;
      const int begin = exists ? run.z.line.window_begin(query) : 0;
      const int end = exists ? run.z.line.window_end(query) : 0;
      const Stored* row = stored + (first + j) * step + (slots + run.z.position - begin) * stride;
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
        const int key = run.z.position + t;
        const bool is_seen = key >= begin && key < end && t < run.count;
        tile[j][t] = is_seen ? widen(__ldg(row)) : Number(0);
        row += stride;
      }
    }
  }
};

}  // namespace cupyna
