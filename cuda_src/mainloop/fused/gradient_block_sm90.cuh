// What the warps of a block of the fused backward on Hopper share.
#pragma once

#include "../../pipeline/ring_sm90.cuh"
#include "../../ptx/arithmetic.cuh"
#include "boxes_sm90.cuh"
#include "gradient_tile_sm90.cuh"
#include "masks_sm90.cuh"
#include "products_sm90.cuh"

namespace cupyna {

template <typename T_, Side kSide, int kHeadDim_, int kColumns_, int kStages_, int kRowBuffers_,
          bool kSumsQueries_>
struct GradientBlockSm90 {
  using T = T_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr int kColumns = kColumns_;
  static constexpr int kStages = kStages_;
  static constexpr int kRowBuffers = kRowBuffers_;
  static constexpr bool kSumsQueries = kSumsQueries_;
  static constexpr int kConsumers = 2;
  static constexpr int kGroupThreads = 128;
  static constexpr int kThreads = kGroupThreads * (1 + kConsumers);
  static constexpr bool kRowsAreQueries = kSide == Side::kQuery;
  static constexpr int kRows = kConsumers * kConsumerRows, kWarps = kRows / 16;
  static_assert(!kSumsQueries || !kRowsAreQueries, "queries sum their own gradients");

  using Plan = GradientPlanSm90<kSide, kRows>;
  using Tile = GradientTileSm90<kSide, Plan>;
  using Walk = GradientWalkSm90<Tile>;
  using Masks = MasksSm90<kColumns>;
  // Where keys of few channels meet 128 queries, products of 64 at a time are in flight.
  static constexpr int kParts = kSide == Side::kKey && kColumns == 128 ? 2 : 1;
  using Products = ProductsSm90<T, kHeadDim, kColumns / kParts>;
  static_assert(kParts == 1 || kHeadDim <= kBlockChannels, "parts of one block of channels");
  using Scores = typename Products::Scores;
  using Sums = typename Products::Sums;
  using Weights = typename Products::Weights;
  static constexpr int kBlocks = Products::kBlocks;
  static constexpr int kRowBlock = kConsumerRows * kBlockChannels;  // elements
  static constexpr int kColumnBlock = kColumns * kBlockChannels;

  // Of dQ, a consumer sums 64 queries, or its share of the channels of all. A product does not
  // begin in the middle of a block of channels: of 96, the second consumer sums 32 and what lies
  // past them, zeros or channels of the next head, which it does not hand over.
  static constexpr bool kSharesQueries = kColumns == kRows;
  static_assert(!kSumsQueries || kSharesQueries || kColumns == kConsumerRows, "blocks of queries");
  static constexpr int kQueryChannels = kSharesQueries   ? kHeadDim
                                        : kHeadDim == 96 ? kBlockChannels
                                                         : kHeadDim / kConsumers;
  using QuerySums = float[kQueryChannels / 2];
  static constexpr int kQueryBlocks = (kColumns + 63) / 64;
  static constexpr int kGradients = kSumsQueries ? 2 * kQueryBlocks * kRows * 64 : 64;

  struct alignas(1024) Shared {
    T rows[kRowBuffers][2][kConsumers][kBlocks][kRowBlock];
    T columns[2][kStages][kBlocks][kColumnBlock];
    alignas(1024) T gradients[kGradients];  // dS: two buffers of blocks of 64 queries, [key][query]
    alignas(128) float sums[kSumsQueries ? kColumns * kHeadDim : 4];  // dQ of a tile of columns
    alignas(16) typename Masks::Sets sets;
    alignas(16) float statistics[2][kRowsAreQueries ? 2 : kStages * kColumns];  // of queries
    alignas(16) Plan plans[2];  // of this tile and the next
    GradientPlace places[kStages];
    int tokens[kColumns];                              // of a tile of columns, from its first on
    unsigned fields[kColumns];                         // coordinates in it
    unsigned char turns[kSumsQueries ? kColumns : 4];  // how their chunks turn more than its first
    Gate plan_gates[2];
    Gate row_gates[kRowBuffers];
    Gate gates[2][kStages];
    Gate sum_gate;
  };

  static __device__ __forceinline__ KeyExtents extents(const HopperGradientParams& params) {
    return KeyExtents{params.tile[0].key_extent, params.tile[1].key_extent,
                      params.tile[2].key_extent};
  }

  // The block's tiles.
  static __device__ __forceinline__ int item_of(unsigned count) {
    return blockIdx.x + count * ptx::grid_blocks();
  }

  static __device__ __forceinline__ unsigned last_in_box(const Tile& tile,
                                                         const Coordinate& origin) {
    return last_fields(tile.own(0).box_end - 1 - origin.x, tile.own(1).box_end - 1 - origin.y,
                       tile.own(2).box_end - 1 - origin.z);
  }

  static __device__ __forceinline__ bool is_not_past(unsigned field, unsigned last) {
    return ((last - field) & kGuards) == kGuards;
  }

  // Queues copies of a tile's box of one head.
  template <int kElements>
  static __device__ __forceinline__ void load(const HopperGradientParams& params,
                                              T (&target)[kBlocks][kElements], const TensorMap& map,
                                              unsigned barrier, const Tile& tile,
                                              const Coordinate& position, int head,
                                              int head_stride) {
    load_box(target, map, barrier, static_cast<BoxOrder>(params.box_order), tile.token_of(position),
             tile.plan.batch, head, head_stride);
  }

  // A thread's row of its consumer's 64.
  static __device__ __forceinline__ int row_of(int half) {
    return threadIdx.x % kGroupThreads / 32 * 16 + half * 8 + threadIdx.x % 32 / 4;
  }
};

}  // namespace cupyna
