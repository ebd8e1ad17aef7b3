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
  using Masks = typename Block::Masks;
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
      shared.plan_gates[ptx::computed_here(count) % 2].release();
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
      const GradientPlace place = place_of(tile, walk);
      Gate& first = shared.gates[0][stage];
      first.await_empty(cursor.phase);
      if (is_first) {
        shared.places[stage] = place;
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

  // What consumers would find out in every warp, found while a stage is awaited.
  __device__ __forceinline__ GradientPlace place_of(const Tile& tile, const Walk& walk) const {
    const int lane = ptx::lane_id();
    const Masks masks{Block::extents(params), shared.sets};
    const bool is_met = lane < kConsumers && walk.meets(tile.plan.shares[lane]);
    const bool is_seen = lane < Block::kWarps && masks.all_see(tile.plan.common[lane], walk.origin);
    const unsigned active = __ballot_sync(kAllLanes, is_met);
    const unsigned seen = __ballot_sync(kAllLanes, is_seen);
    const Coordinate token = tile.token_of(walk.origin);
    return GradientPlace{walk.origin, walk.head, token.z + 4 * token.y,
                         active | seen << GradientPlace::kSeen};
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
      const Statistics* of_query = source + (is_real ? shared.tokens[column] : 0);
      const int to = stage * kColumns + column, bytes = is_real ? 4 : 0;
      ptx::copy_async_4(ptx::shared_address(&shared.statistics[0][to]), &of_query->lse_log2, bytes);
      ptx::copy_async_4(ptx::shared_address(&shared.statistics[1][to]), &of_query->delta, bytes);
    }
  }
};

}  // namespace cupyna
