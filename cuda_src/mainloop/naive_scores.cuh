// Query x neighborhood: scores, or gradients of weights.
//
// A group of lanes holds the rows of one run of queries in registers, a share of the channels in
// each lane, and walks the box of keys that the run sees. Each key is read once for the whole run;
// the products of a lane are summed over the group, and collected in shared memory so that they
// leave in the order of the slots.
#pragma once

#include "../common/channels.cuh"
#include "../common/warp.cuh"
#include "../common/weights.cuh"
#include "../geometry/run.cuh"
#include "naive_box.cuh"

namespace cupyna {

// Keys whose products are summed together: their loads and shuffles do not wait for each other.
constexpr int kKeys = 4;

template <typename T, bool kIsVector, int kLanes>
struct NaiveScores {
  using Number = Wide<T>;
  using Lane = Channels<T, kIsVector>;

  const Params& params;
  const Lanes lanes;
  const Run run;
  const QueryBox box;
  Number (*tile)[kRun];  // [key of the chunk][query of the run]
  Number queries[kRun][kLaneChannels];

  __device__ NaiveScores(const Params& given, Number (*tiles)[kTileRows][kRun])
      : params(given),
        lanes(kLanes),
        run(given, blockIdx.x * Lanes::groups(kLanes) + lanes.group),
        box(run),
        tile(tiles[lanes.group]) {}

  __device__ void compute(int batch, int head) {
    if (params.blocks == 1) load_queries(batch, head, 0);
    const int x_slots = params.axis[0].kernel_size;
    const int y_slots = params.axis[1].kernel_size;
    for (int x_slot = 0; x_slot < x_slots; ++x_slot) {
      for (int y_slot = 0; y_slot < y_slots; ++y_slot) {
        for (int first = 0; first < box.steps; first += kChunk) {
          const int count = min_of(kChunk, box.steps - first);
          for (int block = 0; block < params.blocks; ++block) {
            if (params.blocks > 1) load_queries(batch, head, block);
            multiply(batch, head, block, x_slot, y_slot, first, count);
          }
          __syncwarp();
          store(batch, head, x_slot, y_slot, first, count);
          __syncwarp();
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void load_queries(int batch, int head, int block) {
    const Lane lane(params.query, params.channels, lanes.count, lanes.index, block);
    const T* rows = lane.first + params.query.at<const T>(batch, run.x.token(run.x.position),
                                                          run.y.token(run.y.position), 0, head);
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      // A short run repeats its last query; nothing is stored for the copies.
      const int position = min_of(run.z.position + t, run.last());
      lane.load(rows + run.z.token(position) * params.query.axis[2], queries[t]);
    }
  }

  __device__ __forceinline__ void multiply(int batch, int head, int block, int x_slot, int y_slot,
                                           int first, int count) {
    const Lane lane(params.key, params.channels, lanes.count, lanes.index, block);
    // Groups with a smaller box than another one of the warp repeat their last key.
    const int last = box.last_key - box.begin;
    const T* row = lane.first + params.key.at<const T>(batch, box.x_token(run, x_slot),
                                                       box.y_token(run, y_slot),
                                                       run.z.token(box.begin + min_of(first, last)),
                                                       head / params.head_group);
    const long long step = run.z.dilation * params.key.axis[2];
    constexpr int kShares = kLanes < kKeys * kRun ? kLanes : kKeys * kRun;
    Number* entry = tile[0] + lanes.index % kShares;
    // The last few steps may repeat a key; what they compute is not stored.
    for (int j = first; j < first + count; j += kKeys) {
      Number sums[kKeys * kRun] = {};
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        Number key[kLaneChannels];
        lane.load(row, key);
        if (j + i < last) row += step;
#pragma unroll
        for (int c = 0; c < kLaneChannels; ++c) {
#pragma unroll
          for (int t = 0; t < kRun; ++t) sums[i * kRun + t] += queries[t][c] * key[c];
        }
      }
      deal_sums<kLanes>(sums, lanes.index);
      if (lanes.index < kShares) {
#pragma unroll
        for (int i = 0; i < kKeys * kRun / kShares; ++i) {
          entry[i * kShares] = sums[i] + (block == 0 ? Number(0) : entry[i * kShares]);
        }
      }
      entry += kKeys * kRun;
    }
  }

  __device__ __forceinline__ void store(int batch, int head, int x_slot, int y_slot, int first,
                                        int count) {
    const T* bias = nullptr;
    if (params.bias.data != nullptr) {
      bias = params.bias.at<const T>(0, box.x_bias(run, x_slot), box.y_bias(run, y_slot), 0, head);
    }
    const long long offset =
        offset_of(params.weights, batch, run.x.token(run.x.position), run.y.token(run.y.position),
                  run.z.token(run.z.position), head);
    with_weights<T>(params, offset,
                    [&](auto* stored) { store_chunk(stored, bias, x_slot, y_slot, first, count); });
  }

  // `stored` points at slot 0 of the run's first query.
  template <typename Stored>
  __device__ __forceinline__ void store_chunk(Stored* stored, const T* bias, int x_slot, int y_slot,
                                              int first, int count) const {
    const bool is_inside = box.is_inside(x_slot, y_slot);
    const int z_slots = params.axis[2].kernel_size;
    const int slots = (x_slot * params.axis[1].kernel_size + y_slot) * z_slots;
    const long long stride = params.weights.channel;
    const long long step = run.z.dilation * params.weights.axis[2];
    Stored* rows[kRun];
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      rows[t] = stored + t * step + (slots + box.begin + first - box.begins[t]) * stride;
    }
    for (int j = lanes.index; j < count; j += lanes.count) {
      const int key = box.begin + first + j;
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
        if (key < box.begins[t] || key >= box.begins[t] + z_slots) continue;
        Number score = Number(params.empty);
        if (is_inside && key < box.ends[t]) {
          score = Number(params.scale) * tile[j][t];
          if (bias != nullptr) {
            const int at = key - (run.z.position + t) + z_slots - 1;
            score += widen(bias[at * params.bias.axis[2]]);
          }
        }
        rows[t][j * stride] = narrow<Stored>(score);
      }
    }
  }
};

}  // namespace cupyna
