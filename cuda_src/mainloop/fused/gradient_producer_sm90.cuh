// The copies of a block of the fused backward on Hopper: rows, then columns in a ring.
#pragma once

#include "../../ptx/tma_sm90.cuh"
#include "gradient_block_sm90.cuh"

namespace cupyna {

template <typename Block>
struct GradientProducerSm90 {
  using T = typename Block::T;
  using Tile = typename Block::Tile;
  using Walk = typename Block::Walk;
  static constexpr int kConsumers = Block::kConsumers, kColumns = Block::kColumns;
  static constexpr int kStages = Block::kStages, kBlocks = Block::kBlocks;
  static constexpr int kRowBlock = Block::kRowBlock, kColumnBlock = Block::kColumnBlock;

  const HopperGradientParams& params;
  typename Block::Shared& shared;

  // One warp: its first lane copies, all of them fetch statistics.
  __device__ __forceinline__ void run(const Tile& tile) const {
    const bool is_first = threadIdx.x == 0;
    if (is_first) {
      const unsigned gate =
          shared.row_gate.expect(2 * kConsumers * kBlocks * kRowBlock * sizeof(T));
#pragma unroll 1
      for (int i = 0; i < 2 * kConsumers; ++i) {
        load<kRowBlock>(shared.rows[i / kConsumers][i % kConsumers], params.row_map[i / kConsumers],
                        gate, tile, tile.corner(i % kConsumers), tile.head,
                        params.row_head_stride[i / kConsumers]);
      }
    }
    const unsigned bytes = kBlocks * Block::extents(params).product() * kRowBytes;
    Walk walk(tile);
    Interval shares[kConsumers];
#pragma unroll
    for (int i = 0; i < kConsumers; ++i) shares[i] = tile.share_of(i);
    Cursor<kStages> cursor;
#pragma unroll 1
    for (int left = walk.steps(); left > 0; --left, walk.advance(), cursor.advance()) {
      const int stage = cursor.stage;
      Gate& first = shared.gates[0][stage];
      first.await_empty(cursor.phase);
      if (is_first) {
        unsigned active = 0;
#pragma unroll
        for (int i = 0; i < kConsumers; ++i) active |= unsigned(walk.meets(shares[i])) << i;
        load<kColumnBlock>(shared.columns[0][stage], params.column_map[0], first.expect(bytes),
                           tile, walk.origin, walk.head, params.column_head_stride[0]);
        shared.places[stage] = GradientPlace{walk.origin, walk.head, active};
      }
      if constexpr (!Block::kRowsAreQueries) fetch_statistics(tile, walk, stage);
      __syncwarp();
      if (is_first) {
        ptx::mbarrier_arrive(ptx::shared_address(&first.full));
        Gate& second = shared.gates[1][stage];
        second.await_empty(cursor.phase);
        load<kColumnBlock>(shared.columns[1][stage], params.column_map[1], second.expect(bytes),
                           tile, walk.origin, walk.head, params.column_head_stride[1]);
      }
      __syncwarp();
    }
  }

 private:
  // Those of a tile of queries; zeros where the box has ended.
  __device__ __forceinline__ void fetch_statistics(const Tile& tile, const Walk& walk,
                                                   int stage) const {
    const unsigned last = Block::last_in_box(tile, walk.origin);
    const Statistics* source = params.statistics + tile.query_index(walk.origin, walk.head);
#pragma unroll
    for (int i = 0; i < kColumns; i += 32) {
      const int column = i + threadIdx.x;
      Statistics found{0, 0};
      if (Block::is_not_past(shared.fields[column], last)) {
        const float2 both = __ldg(reinterpret_cast<const float2*>(source + shared.tokens[column]));
        found = Statistics{both.x, both.y};
      }
      shared.statistics[stage * kColumns + column] = found;
    }
  }

  // A box of tokens, in blocks of channels; channels past the last are zero.
  template <int kElements>
  __device__ __forceinline__ void load(T (&target)[kBlocks][kElements], const TensorMap& map,
                                       unsigned barrier, const Tile& tile,
                                       const Coordinate& position, int head,
                                       int head_stride) const {
    const Coordinate at = tile.token_of(position);
    const BoxOrder order = static_cast<BoxOrder>(params.box_order);
    const int outermost = order == BoxOrder::kAxisOutermost ? at.x : tile.batch;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const unsigned address = ptx::shared_address(target[block]);
      const int channel = block * kBlockChannels;
      if (order == BoxOrder::kHeadsFolded) {
        ptx::load_box_5d(address, &map, barrier, head * head_stride + channel, at.z, at.y, at.x,
                         outermost);
      } else {
        ptx::load_box_5d(address, &map, barrier, channel, head, at.z, at.y, outermost);
      }
    }
  }
};

}  // namespace cupyna
