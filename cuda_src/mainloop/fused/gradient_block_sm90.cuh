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

  // All threads: barriers, and tables of the columns.
  static __device__ __forceinline__ void prepare(const HopperGradientParams& params,
                                                 Shared& shared) {
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ptx::prefetch_tensor_map(&params.row_map[i]);
        ptx::prefetch_tensor_map(&params.column_map[i]);
      }
      // A warp plans. The producer, the warp that adds and consumers read: every thread arrives.
      for (Gate& gate : shared.plan_gates) {
        ptx::mbarrier_init(ptx::shared_address(&gate.full), 32);
        ptx::mbarrier_init(ptx::shared_address(&gate.empty),
                           32 * (1 + kSumsQueries) + kConsumers * kGroupThreads);
      }
      for (Gate& gate : shared.row_gates) gate.init(4 * kConsumers);
      // Every warp that sums dQ says so by itself; one warp reads.
      ptx::mbarrier_init(ptx::shared_address(&shared.sum_gate.full), 4 * kConsumers);
      ptx::mbarrier_init(ptx::shared_address(&shared.sum_gate.empty), 1);
      for (int i = 0; i < kStages; ++i) {
        // Bytes of the boxes; with the first ones every lane of the producer copies statistics.
        ptx::mbarrier_init(ptx::shared_address(&shared.gates[0][i].full), kRowsAreQueries ? 1 : 33);
        ptx::mbarrier_init(ptx::shared_address(&shared.gates[1][i].full), 1);
        // Every thread reads a tile's place and statistics, and lets go of them by itself:
        // racecheck follows no arrival for other lanes. What only products read, a warp lets go.
        ptx::mbarrier_init(ptx::shared_address(&shared.gates[0][i].empty),
                           kConsumers * kGroupThreads);
        ptx::mbarrier_init(ptx::shared_address(&shared.gates[1][i].empty), 4 * kConsumers);
      }
      ptx::fence_mbarrier_init();
    }
    const KeyExtents columns = extents(params);
    for (int column = threadIdx.x; column < kColumns; column += kThreads) {
      const Coordinate to = columns.coordinate_of(column);
      const bool is_padding = column >= columns.product();
      shared.fields[column] = is_padding ? outside_fields() : pack_fields(to.x, to.y, to.z);
      shared.tokens[column] = (to.x * params.axis[0].dilation * params.axis[1].length +
                               to.y * params.axis[1].dilation) *
                                  params.axis[2].length +
                              to.z * params.axis[2].dilation;
      if constexpr (kSumsQueries) {
        shared.turns[column] = sum_turn(kBlockChannels, to.y * params.axis[1].dilation,
                                        to.z * params.axis[2].dilation);
      }
    }
    Masks::lay(shared.sets, columns, threadIdx.x, kThreads);
    clear_padding<kColumns>(shared.columns[0][0][0], 2 * kStages * kBlocks, columns.product(),
                            threadIdx.x, kThreads);
    ptx::fence_proxy_async();
    __syncthreads();
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
