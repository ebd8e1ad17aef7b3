// Between blocks and the layout of callers, where each query has one entry for each slot.
#pragma once

#include "../common/numeric.cuh"
#include "../common/warp.cuh"
#include "naive_box.cuh"

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

  // Rows of slots -> blocks. What stands in slots without a key is not read.
  __device__ void pack(int batch, int head) const {
    walk(batch, head,
         [&](Quad<Number>& target, int key, bool is_inside, T* const(&rows)[kRun],
             long long offset) {
           Quad<Number> quad;
#pragma unroll
           for (int t = 0; t < kRun; ++t) {
             const bool is_seen = is_inside && begins[t] <= key && key < ends[t];
             quad.query[t] = is_seen ? widen(__ldg(rows[t] + offset)) : Number(0);
           }
           target = quad;
         });
  }

  // Blocks -> rows of slots, those without a key included.
  __device__ void unpack(int batch, int head) const {
    const int slots = params.axis[2].kernel_size;
    walk(batch, head,
         [&](const Quad<Number>& source, int key, bool, T* const(&rows)[kRun], long long offset) {
           const Quad<Number> quad = source;
#pragma unroll
           for (int t = 0; t < kRun; ++t) {
             const int slot = key - begins[t];
             if (t < run.count && 0 <= slot && slot < slots)
               rows[t][offset] = narrow<T>(quad.query[t]);
           }
         });
  }

 private:
  // Calls `move` with every quad of the block, its key, and where slots of that key are.
  template <typename Move>
  __device__ __forceinline__ void walk(int batch, int head, Move&& move) const {
    if (!run.is_active) return;
    Quad<Number>* quads = block_of<Number>(params, params.weights, batch, head, run.index);
    const Array& array = params.slots;
    // Where the first key of the box would be in each query's row, one line after the other.
    T* rows[kRun];
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      rows[t] = array.at<T>(batch, run.x.token(run.x.position), run.y.token(run.y.position),
                            run.z.token(run.z.position), head) +
                t * run.z.dilation * array.axis[2] + (box.begin - begins[t]) * array.channel;
    }
    const long long line = params.axis[2].kernel_size * array.channel;
    for (int x_slot = 0; x_slot < params.axis[0].kernel_size; ++x_slot) {
      for (int y_slot = 0; y_slot < params.axis[1].kernel_size; ++y_slot) {
        const bool is_inside = box.is_inside(x_slot, y_slot);
#pragma unroll 2
        for (int key = lanes.index; key < params.keys; key += lanes.count) {
          move(quads[key], box.begin + key, is_inside, rows, key * array.channel);
        }
        quads += params.keys;
#pragma unroll
        for (int t = 0; t < kRun; ++t) rows[t] += line;
      }
    }
  }
};

}  // namespace cupyna
