// Weights x neighborhood: outputs, or gradients of queries.
//
// A group of lanes sums the rows of the keys that one run of queries sees, a share of the channels
// in each lane. The weights of a chunk of keys wait in shared memory, zero where a query of the run
// does not see a key.
#pragma once

#include "../common/warp.cuh"
#include "../common/weights.cuh"
#include "naive_accumulate.cuh"
#include "naive_box.cuh"

namespace cupyna {

template <typename T, bool kIsVector>
struct NaiveOutputs {
  using Number = Wide<T>;

  const Params& params;
  const Lanes lanes;
  const Run run;
  const QueryBox box;
  const Channels<T, kIsVector> lane;
  Number (*tile)[kRun];  // [key of the chunk][query of the run]

  __device__ NaiveOutputs(const Params& given, Number (*tiles)[kTileRows][kRun])
      : params(given),
        lanes(given.lanes),
        run(given, blockIdx.x * Lanes::groups(given.lanes) + lanes.group),
        box(run),
        lane(given.key, given.channels, lanes.count, lanes.index, run.block),
        tile(tiles[lanes.group]) {}

  __device__ void compute(int batch, int head) {
    RunSums<T, kIsVector> outputs;
    const long long weights =
        offset_of(params.weights, batch, run.x.token(run.x.position), run.y.token(run.y.position),
                  run.z.token(run.z.position), head);
    const long long step = run.z.dilation * params.key.axis[2];
    const int x_slots = params.axis[0].kernel_size;
    const int y_slots = params.axis[1].kernel_size;
    for (int x_slot = 0; x_slot < x_slots; ++x_slot) {
      for (int y_slot = 0; y_slot < y_slots; ++y_slot) {
        const T* rows = lane.first + params.key.at<const T>(
                                         batch, box.x_token(run, x_slot), box.y_token(run, y_slot),
                                         run.z.token(box.begin), head / params.head_group);
        for (int first = 0; first < box.steps; first += kChunk) {
          const int count = min_of(kChunk, box.steps - first);
          // Clamped, so that no lane points past the box.
          const int last = box.last_key - box.begin;
          with_weights<T>(params, weights,
                          [&](const auto* stored) { fill(stored, x_slot, y_slot, first, count); });
          __syncwarp();
          outputs.add(lane, rows + min_of(first, last) * step, step, last - first, count, tile);
          __syncwarp();
        }
      }
    }
    outputs.store(params.query, params, run, lanes, batch, head);
  }

 private:
  // `stored` points at slot 0 of the run's first query.
  template <typename Stored>
  __device__ __forceinline__ void fill(const Stored* stored, int x_slot, int y_slot, int first,
                                       int count) const {
    const bool is_inside = box.is_inside(x_slot, y_slot);
    const int slots = (x_slot * params.axis[1].kernel_size + y_slot) * params.axis[2].kernel_size;
    const long long stride = params.weights.channel;
    const long long step = run.z.dilation * params.weights.axis[2];
    const Stored* rows[kRun];
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      rows[t] = stored + t * step + (slots + box.begin + first - box.begins[t]) * stride;
    }
#pragma unroll 2
    for (int j = lanes.index; j < count; j += lanes.count) {
      const int key = box.begin + first + j;
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
        const bool is_seen = is_inside && key >= box.begins[t] && key < box.ends[t];
        tile[j][t] = is_seen ? widen(__ldg(rows[t] + j * stride)) : Number(0);
      }
    }
  }
};

}  // namespace cupyna
