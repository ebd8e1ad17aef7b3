// Weights x neighborhood: outputs, or gradients of queries.
//
// A group of lanes sums the rows of the keys that one run of queries sees, a share of the channels
// in each lane. Chunks of the run's quads come through shared memory, one ahead of their use.
#pragma once

#include "../../common/warp.cuh"
#include "../../pipeline/quads.cuh"
#include "accumulate.cuh"
#include "box.cuh"

namespace cupyna {

// Keys of a chunk.
constexpr int kKeyChunk = 16;

template <typename T, bool kIsVector>
struct NaiveOutputs {
  using Number = Wide<T>;
  using Buffers = QuadBuffers<Number, kKeyChunk>;

  const Params& params;
  const Lanes lanes;
  const Run run;
  const QueryBox box;
  const Channels<T, kIsVector> lane;
  Buffers& buffers;
  RunSums<T, kIsVector> outputs;

  __device__ NaiveOutputs(const Params& given, Buffers* of_groups)
      : params(given),
        lanes(given.lanes),
        run(given, blockIdx.x * Lanes::groups(given.lanes) + lanes.group,
            given.items * given.blocks),
        box(run),
        lane(given.key, given.channels, lanes.count, lanes.index, run.block),
        buffers(of_groups[lanes.group]) {}

  __device__ void compute(int batch, int head) {
    outputs = {};
    const Quad<Number>* quads = block_of<Number>(params, params.weights, batch, head, run.index);
    const Quad<Number>* const past = quads + quads_of_block(params);
    const long long y_step = run.y.dilation * params.key.axis[1];
    const int y_slots = params.axis[1].kernel_size;
    int turn = 0;
    fetch(quads, 0, turn);
    for (int x_slot = 0; x_slot < params.axis[0].kernel_size; ++x_slot) {
      const T* line = lane.first + params.key.at<const T>(
                                       batch, box.x_token(run, x_slot), run.y.token(box.y_begin),
                                       run.z.token(box.begin), head / params.head_group);
      for (int y_slot = 0; y_slot < y_slots; ++y_slot) {
        RowWalk<T> walk{line, run.z.dilation * params.key.axis[2], box.last - box.begin};
        for (int first = 0; first < params.keys; first += kKeyChunk) {
          const bool continues = first + kKeyChunk < params.keys;
          const Quad<Number>* next = continues ? quads : quads + params.keys;
          if (next < past) fetch(next, continues ? first + kKeyChunk : 0, turn + 1);
          ptx::copy_async_commit();
          wait_for_chunk();
          add(walk, min_of(kKeyChunk, params.keys - first), buffers.buffer(turn));
          __syncwarp();
          ++turn;
        }
        quads += params.keys;
        // Causal windows shrink: slots past their end name the last key again.
        if (box.y_begin + y_slot + 1 < box.y_end) line += y_step;
      }
    }
    outputs.store(params.query, params, run, lanes, batch, head);
  }

 private:
  __device__ __forceinline__ void fetch(const Quad<Number>* quads, int first, int turn) {
    const int count = min_of(kKeyChunk, params.keys - first);
    for (int j = lanes.index; j < count; j += lanes.count) {
      copy_quad(buffers.buffer(turn) + j, quads + first + j, true);
    }
    if (turn == 0) ptx::copy_async_commit();
  }

  // `count` is even.
  __device__ __forceinline__ void add(RowWalk<T>& walk, int count, const Quad<Number>* quads) {
    int j = 0;
    for (; j < count - 2; j += 4) add_keys<4>(walk, quads + j);
    if (j < count) add_keys<2>(walk, quads + j);
  }

  template <int kKeys>
  __device__ __forceinline__ void add_keys(RowWalk<T>& walk, const Quad<Number>* quads) {
    Number weights[kKeys][kRun];
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const Quad<Number> quad = quads[i];
#pragma unroll
      for (int t = 0; t < kRun; ++t) weights[i][t] = quad.query[t];
    }
    outputs.template add<kKeys>(lane, walk, weights);
  }
};

}  // namespace cupyna
