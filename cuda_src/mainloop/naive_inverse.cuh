// Weights x inverse neighborhood: gradients of keys and values.
//
// A group of lanes owns a run of keys and sums the rows of all queries that see one of them, for
// every query head that shares the key head. Nothing is added from elsewhere, so there is no
// atomic and every run gives the same bits.
#pragma once

#include "../common/warp.cuh"
#include "naive_accumulate.cuh"
#include "naive_box.cuh"

namespace cupyna {

template <typename T, bool kIsVector>
struct NaiveInverse {
  using Number = Wide<T>;

  // Queries whose weights are in shared memory at a time; they may begin inside a run.
  static constexpr int kQueries = kChunk - kRun;

  const Params& params;
  const Lanes lanes;
  const Run run;
  const KeyBox box;
  const Channels<T, kIsVector> lane;
  Quad<Number>* tile;  // a quad holds the weights of one query for the keys of the run

  __device__ NaiveInverse(const Params& given, Quad<Number> (*tiles)[kTileQuads])
      : params(given),
        lanes(given.lanes),
        run(given, blockIdx.x * Lanes::groups(given.lanes) + lanes.group,
            given.items * given.blocks),
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
    const int x_slot = run.x.position - run.x.line.window_begin(x);
    const int y_slot = run.y.position - run.y.line.window_begin(y);
    // The line's first run, and where its quads for these slots are.
    const int line =
        (run.x.token(x) * params.axis[1].length + run.y.token(y)) * run.z.dilation + run.z.group;
    const Quad<Number>* quads =
        block_of<Number>(params, params.weights, batch, head, line * params.runs) +
        (x_slot * params.axis[1].kernel_size + y_slot) * params.keys;
    const T* rows = lane.first + params.query.at<const T>(batch, run.x.token(x), run.y.token(y),
                                                          run.z.token(box.begin), head);
    const long long step = run.z.dilation * params.query.axis[2];
    const int last = box.end - 1 - box.begin;
    const int past = box.is_inside(x_step, y_step) ? box.end : 0;
    for (int first = 0; first < box.steps; first += kQueries) {
      const int count = min_of(kQueries, box.steps - first);
      fill(quads, (box.begin + first) / kRun, count, past);
      __syncwarp();
      gradients.add(lane, rows + min_of(first, last) * step, step, last - first, count,
                    tile + box.begin % kRun);
      __syncwarp();
    }
  }

  // Weights of `count` queries from inside the first run on, zero for queries from `past` on.
  __device__ __forceinline__ void fill(const Quad<Number>* quads, int first_run, int count,
                                       int past) const {
    const int steps = (count + 2 * kRun - 2) / kRun * kRun;
#pragma unroll 2
    for (int j = lanes.index; j < steps; j += lanes.count) {
      const int t = j % kRun;
      const int other = first_run + j / kRun;
      Quad<Number> weights = {};
      if (other * kRun < past && t < run.count) {
        const int key = run.z.position + t - run.z.line.window_begin(other * kRun);
        if (0 <= key && key < params.keys) {
          weights = quads[(long long)other * quads_of_block(params) + key];
        }
      }
      // From the weights of four queries for a key to those of a query for four keys.
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        tile[j / kRun * kRun + i].query[t] = weights.query[i];
      }
    }
  }
};

}  // namespace cupyna
