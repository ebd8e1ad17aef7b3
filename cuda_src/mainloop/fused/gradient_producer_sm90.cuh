// The copies of columns of a block of the fused backward on Hopper, into a ring.
#pragma once

#include "../../ptx/arithmetic.cuh"
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

  const HopperGradientParams& params;
  typename Block::Shared& shared;

  // One warp: its first lane copies boxes, all of them copy statistics.
  __device__ __forceinline__ void run() const {
    unsigned step = 0;
#pragma unroll 1
    for (unsigned count = 0; Block::item_of(count) < params.items; ++count) {
      const Cursor<2> plans(count);
      shared.plan_gates[plans.stage].await_full(plans.phase);
      copy(Tile{params, shared.plans[plans.stage]}, step);
      if (threadIdx.x == 0) shared.plan_gates[ptx::computed_here(count) % 2].release();
    }
  }

 private:
  __device__ __forceinline__ void copy(const Tile& tile, unsigned& step) const {
    const bool is_first = threadIdx.x == 0;
    const unsigned bytes = kBlocks * Block::extents(params).product() * kRowBytes;
    Walk walk(tile);
#pragma unroll 1
    for (const unsigned past = step + tile.plan.steps; step != past; ++step, walk.advance()) {
      const Cursor<kStages> cursor(step);
      const int stage = cursor.stage;
      Gate& first = shared.gates[0][stage];
      first.await_empty(cursor.phase);
      if (is_first) {
        unsigned active = 0;
#pragma unroll
        for (int i = 0; i < kConsumers; ++i) {
          active |= unsigned(walk.meets(tile.plan.shares[i])) << i;
        }
        shared.places[stage] = GradientPlace{walk.origin, walk.head, active};
        load(0, stage, first.expect(bytes), tile, walk);
      }
      if constexpr (!Block::kRowsAreQueries) {
        fetch_statistics(tile, walk, stage);
        ptx::mbarrier_arrive_copied(ptx::shared_address(&first.full));
      }
      Gate& second = shared.gates[1][stage];
      second.await_empty(cursor.phase);
      if (is_first) load(1, stage, second.expect(bytes), tile, walk);
      __syncwarp();
    }
  }

  __device__ __forceinline__ void load(int array, int stage, unsigned barrier, const Tile& tile,
                                       const Walk& walk) const {
    Block::template load<Block::kColumnBlock>(params, shared.columns[array][stage],
                                              params.column_map[array], barrier, tile, walk.origin,
                                              walk.head, params.column_head_stride[array]);
  }

  // Of a tile of queries; zeros where the box has ended.
  __device__ __forceinline__ void fetch_statistics(const Tile& tile, const Walk& walk,
                                                   int stage) const {
    const unsigned last = Block::last_in_box(tile, walk.origin);
    const Statistics* source = params.statistics + tile.query_index(walk.origin, walk.head);
#pragma unroll
    for (int i = 0; i < kColumns; i += 32) {
      const int column = i + threadIdx.x;
      if (kColumns % 32 != 0 && column >= kColumns) break;
      const bool is_real = Block::is_not_past(shared.fields[column], last);
      ptx::copy_async_8(ptx::shared_address(&shared.statistics[stage * kColumns + column]),
                        source + (is_real ? shared.tokens[column] : 0), is_real ? 8 : 0);
    }
  }
};

}  // namespace cupyna
