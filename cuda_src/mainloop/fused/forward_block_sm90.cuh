// What the warps of a block of the fused forward on Hopper share.
#pragma once

#include "../../pipeline/ring_sm90.cuh"
#include "boxes_sm90.cuh"
#include "masks_sm90.cuh"
#include "products_sm90.cuh"
#include "tile_sm90.cuh"

namespace cupyna {

template <typename T_, int kHeadDim_, int kKeys_, int kConsumers_, int kStages_>
struct ForwardBlockSm90 {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kKeys = kKeys_;
  static constexpr int kConsumers = kConsumers_;
  static constexpr int kStages = kStages_;
  static constexpr int kGroupThreads = 128;
  static constexpr int kThreads = kGroupThreads * (1 + kConsumers);

  using Masks = MasksSm90<kKeys>;
  using Products = ProductsSm90<T, kHeadDim, kKeys>;
  using Scores = typename Products::Scores;
  using Sums = typename Products::Sums;
  using Weights = typename Products::Weights;
  using Ring = Cursor<kStages>;
  static constexpr int kBlocks = Products::kBlocks;

  // What a consumer is told of its next tile.
  struct Assignment {
    TileSm90 tile;
    ShareSm90 share;
  };

  struct alignas(1024) Shared {
    T queries[kConsumers][kBlocks][kConsumerRows * kBlockChannels];
    T keys[kStages][kBlocks][kKeys * kBlockChannels];
    T values[kStages][kBlocks][kKeys * kBlockChannels];
    alignas(16) typename Masks::Sets sets;
    Window windows[kConsumers][kConsumerRows];
    // Two of each consumer: the producer is one tile ahead.
    alignas(Assignment) unsigned char assignments[2][kConsumers][sizeof(Assignment)];
    Coordinate origins[kStages];  // first positions of key tiles
    unsigned long long assigned[kConsumers];
    Gate query_gate[kConsumers];
    Gate key_gate[kStages];
    Gate value_gate[kStages];

    __device__ __forceinline__ Assignment& assignment(unsigned phase, int consumer) {
      return *reinterpret_cast<Assignment*>(assignments[phase][consumer]);
    }
  };

  static __device__ __forceinline__ KeyExtents extents(const HopperParams& params) {
    return KeyExtents{params.tile[0].key_extent, params.tile[1].key_extent,
                      params.tile[2].key_extent};
  }
};

}  // namespace cupyna
