// The fused forward on Hopper: one warp copies boxes, warpgroups of consumers compute.
//
//   producer   per tile of queries: Q of each consumer; per key tile: K, then V, into a ring
//   consumers  64 queries each, all against the same key tiles:
//     S(t) = Q K(t)^T   in the background of  O += P(t - 1) V(t - 1)
//     mask S(t) where the tile is an edge, softmax  -> P(t), in registers
//   O / sum straight from registers to memory, 16 bytes at a time
//
// The block is persistent: it takes every gridDim.x-th tile, and the next tile's copies run while
// the last one's sums are stored.
#pragma once

#include "../../common/numeric.cuh"
#include "forward_producer_sm90.cuh"
#include "softmax_sm90.cuh"
#include "store_sm90.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kKeys, int kConsumers, int kStages>
struct FusedForwardSm90 {
  using Block = ForwardBlockSm90<T, kHeadDim, kKeys, kConsumers, kStages>;
  using Shared = typename Block::Shared;
  using Masks = typename Block::Masks;
  using Products = typename Block::Products;
  using Scores = typename Block::Scores;
  using Sums = typename Block::Sums;
  using Weights = typename Block::Weights;
  using Ring = typename Block::Ring;
  using Softmax = SoftmaxSm90<kKeys>;
  static constexpr int kThreads = Block::kThreads, kGroupThreads = Block::kGroupThreads;
  // Groups give registers to each other, out of those that the block is launched with: a group that
  // asks for more than there are waits for ever.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kProducerRegisters = kConsumers == 2 ? 24 : 32;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 240 : 160;
  static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <=
                    (1 + kConsumers) * kLaunchRegisters,
                "the block has the registers");
  // Hardware barriers: the first is the whole block's.
  static constexpr int kWindowBarrier = 1, kTableBarrier = kWindowBarrier + kConsumers;
  static constexpr int kTurnBarrier = kTableBarrier + 1;

  const HopperParams& params;
  Shared& shared;

  __device__ __forceinline__ void run() {
    prepare();
    // The compiler must see that a whole warp takes one branch.
    const int group = __shfl_sync(kAllLanes, threadIdx.x / kGroupThreads, 0);
    if (group == 0) {
      ptx::lower_registers<kProducerRegisters>();
      if (threadIdx.x == 0) ForwardProducerSm90<Block>{params, shared}.run();
    } else {
      ptx::raise_registers<kConsumerRegisters>();
      consume(group - 1);
    }
  }

 private:
  __device__ __forceinline__ void prepare() const {
    if (threadIdx.x == 0) {
      ptx::prefetch_tensor_map(&params.q_map);
      ptx::prefetch_tensor_map(&params.k_map);
      ptx::prefetch_tensor_map(&params.v_map);
      // Every thread of a consumer lets assignments go, and every warp key tiles.
      for (Gate& gate : shared.query_gate) gate.init(kGroupThreads);
      for (auto& barrier : shared.assigned) ptx::mbarrier_init(ptx::shared_address(&barrier), 1);
      for (Gate& gate : shared.key_gate) gate.init(4 * kConsumers);
      for (Gate& gate : shared.value_gate) gate.init(4 * kConsumers);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
  }

  // What consumers need beside copies; the first ones are under way meanwhile.
  __device__ __forceinline__ void lay_tables() const {
    constexpr int kThreadsOfAll = kConsumers * kGroupThreads;
    const int thread = threadIdx.x - kGroupThreads;
    const KeyExtents keys = Block::extents(params);
    Masks::lay(shared.sets, keys, thread, kThreadsOfAll);
    constexpr int kBoxes = kStages * Block::kBlocks;
    clear_padding<kKeys>(shared.keys[0][0], kBoxes, keys.product(), thread, kThreadsOfAll);
    clear_padding<kKeys>(shared.values[0][0], kBoxes, keys.product(), thread, kThreadsOfAll);
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(kTableBarrier, kThreadsOfAll);
  }

  __device__ __forceinline__ void consume(int consumer) const {
    Ring keys, values;
    unsigned phase = 0;
    lay_tables();
    if (consumer == kConsumers - 1) pass_turn(consumer);
    for (int item = blockIdx.x; item < params.items; item += gridDim.x, phase ^= 1) {
      await(shared.assigned[consumer], phase);
      const typename Block::Assignment& assigned = shared.assignment(phase, consumer);
      lay_windows(assigned.tile, consumer);
      skip(keys, values, assigned.share.before, consumer);
      shared.query_gate[consumer].await_full(phase);
      Sums sums = {};
      Softmax softmax;
      const int count = assigned.share.count;
      if (count > 0) {
        attend(sums, softmax, keys, values, count, consumer);
      } else {
        let_queries_go(consumer);
      }
      skip(keys, values, assigned.share.after, consumer);
      if (count > 0) store(assigned.tile, sums, softmax, consumer);
    }
    if (consumer == 0) await_turn(consumer);
  }

  // Consumers queue products one after the other: one computes weights while others multiply.
  __device__ __forceinline__ void await_turn(int consumer) const {
    if (params.takes_turns) {
      ptx::named_barrier_sync(kTurnBarrier + consumer, 2 * kGroupThreads);
    }
  }
  __device__ __forceinline__ void pass_turn(int consumer) const {
    if (params.takes_turns) {
      const int next = consumer + 1 == kConsumers ? 0 : consumer + 1;
      ptx::named_barrier_arrive(kTurnBarrier + next, 2 * kGroupThreads);
    }
  }

  // The windows of this consumer's rows.
  __device__ __forceinline__ void lay_windows(const TileSm90& tile, int consumer) const {
    // All are done with the last tile's.
    ptx::named_barrier_sync(kWindowBarrier + consumer, kGroupThreads);
    const int row = threadIdx.x % kGroupThreads;
    if (row < kConsumerRows) {
      bool is_real;
      const Coordinate at = tile.position_of(params, consumer, row, is_real);
      shared.windows[consumer][row] =
          Window{window_of(tile.line(params, 0), at.x), window_of(tile.line(params, 1), at.y),
                 window_of(tile.line(params, 2), at.z)};
    }
    ptx::named_barrier_sync(kWindowBarrier + consumer, kGroupThreads);
  }

  // Lets key tiles go that only others need.
  __device__ __forceinline__ void skip(Ring& keys, Ring& values, int count, int consumer) const {
#pragma unroll 1
    for (; count > 0; --count) {
      shared.key_gate[keys.stage].await_full(keys.phase);
      let_go(shared.key_gate, keys);
      await_turn(consumer);
      pass_turn(consumer);
      shared.value_gate[values.stage].await_full(values.phase);
      let_go(shared.value_gate, values);
    }
  }

  __device__ __forceinline__ void let_go(Gate (&gates)[kStages], Ring& cursor) const {
    if (threadIdx.x % 32 == 0) gates[cursor.stage].release();
    cursor.advance();
  }

  __device__ __forceinline__ void let_queries_go(int consumer) const {
    shared.query_gate[consumer].release();
  }

  // Where a key tile begins: read by the lane that will let the tile go.
  __device__ __forceinline__ Coordinate origin_of(const Ring& keys) const {
    Coordinate origin = {};
    if (threadIdx.x % 32 == 0) origin = shared.origins[keys.stage];
    return Coordinate{__shfl_sync(kAllLanes, origin.x, 0), __shfl_sync(kAllLanes, origin.y, 0),
                      __shfl_sync(kAllLanes, origin.z, 0)};
  }

  // All key tiles that the consumer's rows need.
  __device__ __forceinline__ void attend(Sums& sums, Softmax& softmax, Ring& keys, Ring& values,
                                         int count, int consumer) const {
    const T* queries = shared.queries[consumer][0];
    const Window* windows = shared.windows[consumer] + threadIdx.x % kGroupThreads / 32 * 16;
    const Masks masks{Block::extents(params), shared.sets};
    Scores scores;
    Weights weights;
    shared.key_gate[keys.stage].await_full(keys.phase);
    await_turn(consumer);
    Products::multiply_keys(scores, queries, shared.keys[keys.stage][0]);
    pass_turn(consumer);
    Mask mask(masks, windows, origin_of(keys));
    ptx::wgmma_wait<0>();
    let_go(shared.key_gate, keys);
    if (count == 1) let_queries_go(consumer);
    weigh(scores, softmax, mask);
    Products::pack_weights(weights, scores);
#pragma unroll 1
    for (int left = count - 1; left > 0; --left) {
      shared.key_gate[keys.stage].await_full(keys.phase);
      await_turn(consumer);
      Products::multiply_keys(scores, queries, shared.keys[keys.stage][0]);
      shared.value_gate[values.stage].await_full(values.phase);
      Products::multiply_values(sums, weights, shared.values[values.stage][0]);
      pass_turn(consumer);
      mask = Mask(masks, windows, origin_of(keys));
      ptx::wgmma_wait<1>();
      let_go(shared.key_gate, keys);
      if (left == 1) let_queries_go(consumer);
      weigh(scores, softmax, mask);
      softmax.await_and_rescale(sums);
      let_go(shared.value_gate, values);
      Products::pack_weights(weights, scores);
    }
    shared.value_gate[values.stage].await_full(values.phase);
    Products::multiply_values(sums, weights, shared.values[values.stage][0]);
    ptx::wgmma_wait<0>();
    let_go(shared.value_gate, values);
  }

  // What a key tile's mask needs, found while the product runs.
  struct Mask {
    bool is_edge;
    typename Masks::Bits bits;

    __device__ __forceinline__ Mask(const Masks& masks, const Window* windows,
                                    const Coordinate& origin)
        : is_edge(!masks.all_see(Masks::common(windows), origin)) {
      if (is_edge) masks.find(bits, windows, origin);
    }
  };

  __device__ __forceinline__ void weigh(Scores& scores, Softmax& softmax, const Mask& mask) const {
    if (params.sign != 1.f) {
#pragma unroll
      for (float& score : scores) score *= params.sign;
    }
    if (mask.is_edge) Masks::template select<kKeys>(scores, mask.bits, 0, -infinity());
    softmax.weigh(scores, params.scale_log2);
  }

  __device__ __forceinline__ void store(const TileSm90& tile, const Sums& sums,
                                        const Softmax& softmax, int consumer) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const OnlineRow& found = softmax.rows[half];
      const float sum = sum_over_quad(found.sum);
      const int row = threadIdx.x % kGroupThreads / 32 * 16 + half * 8 + lane / 4;
      bool is_real;
      const Coordinate at = tile.token_of(params, tile.position_of(params, consumer, row, is_real));
      if (params.lse.data != nullptr && lane % 4 == 0 && is_real) {
        *params.lse.at<float>(tile.batch, at.x, at.y, at.z, tile.head) =
            found.largest * params.scale + logf(sum);
      }
      store_row(params.out.at<T>(tile.batch, at.x, at.y, at.z, tile.head), sums, 1.f / sum, half,
                params.value_dim, is_real);
    }
  }
};

}  // namespace cupyna
