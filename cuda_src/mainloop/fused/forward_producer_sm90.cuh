// The copies of a block of the fused forward on Hopper: queries of each tile, and its key tiles in
// a ring.
#pragma once

#include "forward_block_sm90.cuh"

namespace cupyna {

template <typename Block>
struct ForwardProducerSm90 {
  static constexpr int kConsumers = Block::kConsumers, kStages = Block::kStages;
  static constexpr int kBlocks = Block::kBlocks;

  const HopperParams& params;
  typename Block::Shared& shared;

  // One thread.
  __device__ __forceinline__ void run() const {
    Cursor<kStages> keys, values;
    unsigned phase = 0;
    for (int item = blockIdx.x; item < params.items; item += gridDim.x, phase ^= 1) {
      const TileSm90 tile(params, item);
      const int key_head = tile.head / params.head_group;
      WalkSm90 walk(params, tile);
#pragma unroll 1
      for (int consumer = 0; consumer < kConsumers; ++consumer) {
        assign(tile, ShareSm90(params, tile, walk, consumer), phase, consumer);
      }
#pragma unroll 1
      for (int left = walk.outer_count * walk.per_outer(); left > 0; --left, walk.advance()) {
        const Coordinate origin = walk.origin();
        shared.key_gate[keys.stage].await_empty(keys.phase);
        shared.origins[keys.stage] = origin;
        copy(shared.keys, params.k_map, shared.key_gate, keys, tile, origin, key_head,
             params.k_head_stride);
        shared.value_gate[values.stage].await_empty(values.phase);
        copy(shared.values, params.v_map, shared.value_gate, values, tile, origin, key_head,
             params.v_head_stride);
      }
    }
  }

 private:
  // Tells a consumer its next tile, and copies its queries.
  __device__ __forceinline__ void assign(const TileSm90& tile, const ShareSm90& share,
                                         unsigned phase, int consumer) const {
    Gate& gate = shared.query_gate[consumer];
    gate.await_empty(phase);  // its last but one tile is stored, too
    typename Block::Assignment& next = shared.assignment(phase, consumer);
    next.tile = tile;
    next.share = share;
    ptx::mbarrier_arrive(ptx::shared_address(&shared.assigned[consumer]));
    load(shared.queries[consumer], params.q_map,
         gate.expect(kBlocks * Block::Products::kQueryBlockBytes), tile,
         tile.corner(params, consumer), tile.head, params.q_head_stride);
  }

  // A key tile, or its values, into an empty stage.
  template <typename Stage>
  __device__ __forceinline__ void copy(Stage (&ring)[kStages], const TensorMap& map,
                                       Gate (&gates)[kStages], Cursor<kStages>& cursor,
                                       const TileSm90& tile, const Coordinate& origin, int head,
                                       int head_stride) const {
    const unsigned bytes = kBlocks * Block::extents(params).product() * kRowBytes;
    load(ring[cursor.stage], map, gates[cursor.stage].expect(bytes), tile, origin, head,
         head_stride);
    cursor.advance();
  }

  template <typename Target>
  __device__ __forceinline__ void load(Target& target, const TensorMap& map, unsigned barrier,
                                       const TileSm90& tile, const Coordinate& position, int head,
                                       int head_stride) const {
    load_box(target, map, barrier, static_cast<BoxOrder>(params.box_order),
             tile.token_of(params, position), tile.batch, head, head_stride);
  }
};

}  // namespace cupyna
