// The tiles of a block of the fused backward on Hopper, each laid before work on it begins: two
// warps find where its rows lie and what they meet, and copy them.
#pragma once

#include "../../ptx/arithmetic.cuh"
#include "gradient_block_sm90.cuh"

namespace cupyna {

template <typename Block>
struct GradientPlannerSm90 {
  using Plan = typename Block::Plan;
  using Tile = typename Block::Tile;
  using Walk = typename Block::Walk;

  const HopperGradientParams& params;
  typename Block::Shared& shared;

  // One of two warps: each takes every other tile.
  __device__ __forceinline__ void run(unsigned first) const {
#pragma unroll 1
    for (unsigned count = first; Block::item_of(count) < params.items; count += 2) {
      const unsigned slot = ptx::computed_here(first);
      Gate& gate = shared.plan_gates[slot];
      gate.await_empty(count / 2 % 2);
      lay(shared.plans[slot], Block::item_of(count));
      __syncwarp();
      ptx::mbarrier_arrive(ptx::shared_address(&gate.full));
      if (threadIdx.x % 32 == 0) {
        load_rows(shared.plans[slot], Cursor<Block::kRowBuffers>(count));
      }
      __syncwarp();
    }
  }

 private:
  __device__ __forceinline__ void lay(Plan& plan, int item) const {
    const int lane = threadIdx.x % 32;
    const Tile tile{params, plan};
    lay_tile(plan, tile, item, lane);
    __syncwarp();
    if (lane < Block::kConsumers) plan.shares[lane] = tile.share_of(lane);
    if (lane == 0) {
      plan.steps = max_of(Walk::steps(tile), 0);
      plan.start = Coordinate{tile.walk_begin(0, Block::kSumsQueries),
                              tile.walk_begin(1, Block::kSumsQueries),
                              tile.walk_begin(2, Block::kSumsQueries)};
    }
    // A row's window is that of its coordinates, which rows share: few are computed.
    const int past_x = params.tile[0].row_extent, past_y = past_x + params.tile[1].row_extent;
    const int past_z = past_y + params.tile[2].row_extent;
#pragma unroll 1
    for (int i = ptx::lane_id(); i < past_z; i += 32) {
      const int axis = (i >= past_x) + (i >= past_y);
      plan.along[i] = tile.partners_of(axis, i - (axis == 0 ? 0 : axis == 1 ? past_x : past_y));
    }
    __syncwarp();
#pragma unroll 1
    for (int row = ptx::lane_id(); row < Block::kRows; row += 32) {
      const int consumer = row / kConsumerRows;
      const Coordinate to = tile.offset_of(consumer, row % kConsumerRows);
      plan.windows[row] =
          Window{plan.along[to.x], plan.along[past_x + to.y], plan.along[past_y + to.z]};
      if constexpr (Block::kRowsAreQueries) {
        bool is_real;
        const Coordinate at = tile.position_of(consumer, row % kConsumerRows, is_real);
        plan.statistics[row] = params.statistics[tile.query_index(at, plan.head)];
      }
    }
    __syncwarp();
    if (lane < Block::kWarps) plan.common[lane] = Block::Masks::common(plan.windows + lane * 16);
  }

  __device__ __forceinline__ void load_rows(const Plan& plan,
                                            const Cursor<Block::kRowBuffers>& rows) const {
    constexpr int kConsumers = Block::kConsumers;
    const Tile tile{params, plan};
    Gate& gate = shared.row_gates[rows.stage];
    gate.await_empty(rows.phase);
    const unsigned barrier = gate.expect(sizeof(shared.rows[0]));
#pragma unroll 1
    for (int i = 0; i < 2 * kConsumers; ++i) {
      Block::template load<Block::kRowBlock>(
          params, shared.rows[rows.stage][i / kConsumers][i % kConsumers],
          params.row_map[i / kConsumers], barrier, tile, tile.corner(i % kConsumers), plan.head,
          params.row_head_stride[i / kConsumers]);
    }
  }

  // One lane for each axis.
  __device__ __forceinline__ void lay_tile(Plan& plan, const Tile& tile, int item, int lane) const {
    if (lane >= kAxes) return;
    const int plane = item / params.tiles;
    int index = item - plane * params.tiles;
    // Tiles of causal windows differ: so blocks that took long ones get short ones.
    if (params.reversed_planes >> (plane & 1) & 1) index = params.tiles - 1 - index;
    index = (index + plane % params.tiles * params.rotation) % params.tiles;
    for (int i = kAxes - 1; i > lane; --i) index /= params.tile[i].row_tiles;
    const AxisTile found = tile.tiling(lane).tile(index % params.tile[lane].row_tiles, Tile::kSide);
    AxisTile& own = plan.own[lane];  // what is common to its rows is not asked for
    own.group = found.group;
    own.begin = found.begin;
    own.end = found.end;
    own.box_begin = found.box_begin;
    own.box_end = found.box_end;
    if (lane == 0) {
      plan.batch = plane / params.row_heads;
      plan.head = plane - plan.batch * params.row_heads;
    }
  }
};

}  // namespace cupyna
