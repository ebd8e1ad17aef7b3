// Boxes of tokens in shared memory, as the copy engine leaves them: blocks of 64 channels, each of
// them rows of 128 bytes, one to a token.
#pragma once

#include "../../common/hopper_params.cuh"
#include "../../geometry/box.cuh"
#include "../../ptx/shared_memory.cuh"
#include "../../ptx/tma_sm90.cuh"
#include "products_sm90.cuh"

namespace cupyna {

// Queues copies of the box at a token of one head; they arrive at `barrier`. Channels past the last
// are zero.
template <typename T, int kBlocks, int kElements>
__device__ __forceinline__ void load_box(T (&target)[kBlocks][kElements], const TensorMap& map,
                                         unsigned barrier, BoxOrder order, const Coordinate& token,
                                         int batch, int head, int head_stride) {
  const int outermost = order == BoxOrder::kAxisOutermost ? token.x : batch;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
    const unsigned address = ptx::shared_address(target[block]);
    const int channel = block * kBlockChannels;
    if (order == BoxOrder::kHeadsFolded) {
      ptx::load_box_5d(address, &map, barrier, head * head_stride + channel, token.z, token.y,
                       token.x, outermost);
    } else {
      ptx::load_box_5d(address, &map, barrier, channel, head, token.z, token.y, outermost);
    }
  }
}

// Rows that no copy writes must hold finite numbers: weights of zero meet them. `boxes` of kRows
// rows follow each other, of which copies write the first `tokens`.
template <int kRows, typename T>
__device__ __forceinline__ void clear_padding(T* boxes, int count, int tokens, int thread,
                                              int threads) {
  constexpr int kRowVectors = kRowBytes / 16;
  const int padding = (kRows - tokens) * kRowVectors;
  for (int i = thread; i < padding * count; i += threads) {
    T* box = boxes + i / padding * kRows * kBlockChannels;
    reinterpret_cast<uint4*>(box)[tokens * kRowVectors + i % padding] = make_uint4(0, 0, 0, 0);
  }
}

}  // namespace cupyna
