// Weights x neighborhood: outputs, or gradients of queries.
//
// A group of lanes sums the rows of the keys that one run of queries sees, a share of the channels
// in each lane. The quads of a chunk of keys wait in shared memory.
#pragma once

#include "../common/warp.cuh"
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
  Quad<Number>* tile;

  __device__ NaiveOutputs(const Params& given, Quad<Number> (*tiles)[kTileQuads])
      : params(given),
        lanes(given.lanes),
        run(given, blockIdx.x * Lanes::groups(given.lanes) + lanes.group,
            given.items * given.blocks),
        box(run),
        lane(given.key, given.channels, lanes.count, lanes.index, run.block),
        tile(tiles[lanes.group]) {}

  __device__ void compute(int batch, int head) {
    RunSums<T, kIsVector> outputs;
    const Quad<Number>* quads =
        block_of<Number>(params, params.weights, batch, head, run.index) + lanes.index;
    const long long step = run.z.dilation * params.key.axis[2];
    const int last = box.last - box.begin;
    for (int x_slot = 0; x_slot < params.axis[0].kernel_size; ++x_slot) {
      for (int y_slot = 0; y_slot < params.axis[1].kernel_size; ++y_slot) {
        const T* rows = lane.first + params.key.at<const T>(
                                         batch, box.x_token(run, x_slot), box.y_token(run, y_slot),
                                         run.z.token(box.begin), head / params.head_group);
        for (int first = 0; first < params.keys; first += kChunk) {
          const int count = min_of(kChunk, params.keys - first);
#pragma unroll 4
          for (int j = lanes.index; j < count; j += lanes.count) {
            tile[j] = quads[first + j - lanes.index];
          }
          __syncwarp();
          outputs.add(lane, rows + min_of(first, last) * step, step, last - first, count, tile);
          __syncwarp();
        }
        quads += params.keys;
      }
    }
    outputs.store(params.query, params, run, lanes, batch, head);
  }
};

}  // namespace cupyna
