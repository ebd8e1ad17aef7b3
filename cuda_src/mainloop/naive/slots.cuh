// Between blocks and the layout of callers, where each query has one entry for each slot.
#pragma once

#include "../../common/numeric.cuh"
#include "../../common/warp.cuh"
#include "box.cuh"

namespace cupyna {

template <typename T>
struct NaiveSlots {
  using Number = Wide<T>;

  const Params& params;
  const Lanes lanes;
  const Run run;
  const QueryBox box;
  int begins[kRun];  // of windows along z
  int ends[kRun];

  __device__ explicit NaiveSlots(const Params& given)
      : params(given),
        lanes(given.lanes),
        run(given, blockIdx.x * Lanes::groups(given.lanes) + lanes.group, given.items),
        box(run) {
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      const OwnWindow window(run, t);
      begins[t] = window.begin;
      ends[t] = window.end;
    }
  }

  // Rows of slots -> blocks, quad by quad. What stands in slots without a key is not read.
  __device__ void pack(int batch, int head) const {
    if (!run.is_active) return;
    Quad<Number>* quads = block_of<Number>(params, params.weights, batch, head, run.index);
    // Where the first key of the box would be in each query's row, one line after the other.
    const T* rows[kRun];
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      rows[t] = row_of(batch, head, t) + (box.begin - begins[t]) * params.slots.channel;
    }
    const long long line = params.axis[2].kernel_size * params.slots.channel;
    for (int x_slot = 0; x_slot < params.axis[0].kernel_size; ++x_slot) {
      for (int y_slot = 0; y_slot < params.axis[1].kernel_size; ++y_slot) {
        const bool is_inside = box.is_inside(x_slot, y_slot);
#pragma unroll 2
        for (int key = lanes.index; key < params.keys; key += lanes.count) {
          quads[key] = quad_at(rows, key, is_inside);
        }
        quads += params.keys;
#pragma unroll
        for (int t = 0; t < kRun; ++t) rows[t] += line;
      }
    }
  }

  // Blocks -> rows of slots, row by row: neighboring lanes write neighboring slots. Slots without a
  // key have their place in a block, too.
  __device__ void unpack(int batch, int head) const {
    const Quad<Number>* quads = block_of<Number>(params, params.weights, batch, head, run.index);
    const int z_slots = params.axis[2].kernel_size;
    const int slots = params.axis[0].kernel_size * params.axis[1].kernel_size * z_slots;
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      if (t >= run.count) break;
      T* row = row_of(batch, head, t);
#pragma unroll 4
      for (int slot = lanes.index; slot < slots; slot += lanes.count) {
        const int line = slot / z_slots;
        const int key = begins[t] - box.begin + slot - line * z_slots;
        row[slot * params.slots.channel] = narrow<T>(quads[line * params.keys + key].query[t]);
      }
    }
  }

 private:
  // Slot 0 of a query of the run.
  __device__ __forceinline__ T* row_of(int batch, int head, int t) const {
    return params.slots.at<T>(batch, run.x.token(run.x.position), run.y.token(run.y.position),
                              run.z.token(run.z.position + t), head);
  }

  __device__ __forceinline__ Quad<Number> quad_at(const T* const (&rows)[kRun], int key,
                                                  bool is_inside) const {
    Quad<Number> quad;
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      const int at = box.begin + key;
      const bool is_seen = is_inside && begins[t] <= at && at < ends[t];
      quad.query[t] = is_seen ? widen(__ldg(rows[t] + key * params.slots.channel)) : Number(0);
    }
    return quad;
  }
};

}  // namespace cupyna
