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
#include "../../common/warp.cuh"
#include "../../pipeline/ring_sm90.cuh"
#include "../../ptx/tma_sm90.cuh"
#include "../../softmax/online.cuh"
#include "tile_sm90.cuh"
#include "products_sm90.cuh"

namespace cupyna {

constexpr int kGroupThreads = 128;

template <typename T, int kHeadDim, int kKeys, int kConsumers, int kStages>
struct FusedForwardSm90 {
  using Products = ProductsSm90<T, kHeadDim, kKeys>;
  using Scores = typename Products::Scores;
  using Sums = typename Products::Sums;
  using Weights = typename Products::Weights;
  static constexpr int kThreads = kGroupThreads * (1 + kConsumers);
  static constexpr int kBlocks = Products::kBlocks;
  // Groups give registers to each other, out of those that the block is launched with: a group that
  // asks for more than there are waits for ever.
  static constexpr int kLaunchRegisters = 65536 / kThreads / 8 * 8;
  static constexpr int kProducerRegisters = kConsumers == 2 ? 24 : 32;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 240 : 160;
  static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <=
                    (1 + kConsumers) * kLaunchRegisters,
                "the block has the registers");

  static constexpr int kWords = (kKeys + 31) / 32;
  static constexpr int kSetWords = (kWords + 3) / 4 * 4;

  // What a consumer is told of its next tile.
  struct Assignment {
    TileSm90 tile;
    ShareSm90 share;
  };

  struct alignas(1024) Shared {
    T queries[kConsumers][kBlocks][kConsumerRows * kBlockChannels];
    T keys[kStages][kBlocks][kKeys * kBlockChannels];
    T values[kStages][kBlocks][kKeys * kBlockChannels];
    alignas(16) unsigned sets[kKeys + 5][kSetWords];  // see KeyExtents
    Window windows[kConsumers][kConsumerRows];
    // Two of each consumer: the producer is one tile ahead.
    alignas(Assignment) unsigned char assignments[2][kConsumers][sizeof(Assignment)];
    Coordinate origins[kStages];  // first positions of key tiles
    unsigned long long assigned[kConsumers];
    Gate query_gate[kConsumers];
    Gate key_gate[kStages];
    Gate value_gate[kStages];
  };

  const HopperParams& params;
  Shared& shared;

  __device__ __forceinline__ void run() {
    prepare();
    // The compiler must see that a whole warp takes one branch.
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / kGroupThreads, 0);
    if (group == 0) {
      ptx::lower_registers<kProducerRegisters>();
      if (threadIdx.x == 0) produce();
    } else {
      ptx::raise_registers<kConsumerRegisters>();
      consume(group - 1);
    }
  }

 private:
  __device__ __forceinline__ KeyExtents extents() const {
    return KeyExtents{params.tile[0].key_extent, params.tile[1].key_extent,
                      params.tile[2].key_extent};
  }

  __device__ __forceinline__ void prepare() const {
    if (threadIdx.x == 0) {
      ptx::prefetch_tensor_map(&params.q_map);
      ptx::prefetch_tensor_map(&params.k_map);
      ptx::prefetch_tensor_map(&params.v_map);
      // Every warp of a consumer lets go by itself.
      for (Gate& gate : shared.query_gate) gate.init(4);
      for (auto& barrier : shared.assigned) ptx::mbarrier_init(ptx::shared_address(&barrier), 1);
      for (Gate& gate : shared.key_gate) gate.init(4 * kConsumers);
      for (Gate& gate : shared.value_gate) gate.init(4 * kConsumers);
      ptx::fence_mbarrier_init();
    }
    __syncthreads();
  }

  // What consumers need beside copies; the first ones are under way meanwhile.
  __device__ __forceinline__ void lay_tables(int thread) const {
    const KeyExtents keys = extents();
    const int warp = thread / 32, lane = thread % 32, product = keys.product();
#pragma unroll 1
    for (int word = 0; word < kSetWords; ++word) {
      const int column = word * 32 + lane;
      const Coordinate at = keys.coordinate_of(column);
      for (int set = warp; set < keys.sets(); set += 4 * kConsumers) {
        const unsigned bits = __ballot_sync(kAllLanes, column < product && keys.holds(set, at));
        if (lane == 0) shared.sets[set][word] = bits;
      }
    }
    clear_padding(thread, product);
    ptx::fence_proxy_async();
    ptx::named_barrier_sync(1 + kConsumers, kConsumers * kGroupThreads);
  }

  // Rows that no copy writes must hold finite numbers: weights of zero meet them.
  __device__ __forceinline__ void clear_padding(int thread, int product) const {
    constexpr int kRowVectors = kRowBytes / 16;
    const int padding = (kKeys - product) * kRowVectors;
    for (int i = thread; i < padding * kStages * kBlocks; i += kConsumers * kGroupThreads) {
      const int block = i / padding, vector = product * kRowVectors + i % padding;
      const uint4 zero = make_uint4(0, 0, 0, 0);
      reinterpret_cast<uint4*>(shared.keys[block / kBlocks][block % kBlocks])[vector] = zero;
      reinterpret_cast<uint4*>(shared.values[block / kBlocks][block % kBlocks])[vector] = zero;
    }
  }

  __device__ __forceinline__ Assignment& assignment(unsigned phase, int consumer) const {
    return *reinterpret_cast<Assignment*>(shared.assignments[phase][consumer]);
  }

  // One thread.
  __device__ __forceinline__ void produce() const {
    Cursor<kStages> keys, values;
    unsigned phase = 0;
    const unsigned key_bytes = kBlocks * extents().product() * kRowBytes;
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
        Gate& key_gate = shared.key_gate[keys.stage];
        key_gate.await_empty(keys.phase);
        shared.origins[keys.stage] = origin;
        load<kKeys>(shared.keys[keys.stage], params.k_map, key_gate.expect(key_bytes), tile, origin,
                    key_head, params.k_head_stride);
        keys.advance();
        Gate& value_gate = shared.value_gate[values.stage];
        value_gate.await_empty(values.phase);
        load<kKeys>(shared.values[values.stage], params.v_map, value_gate.expect(key_bytes), tile,
                    origin, key_head, params.v_head_stride);
        values.advance();
      }
    }
  }

  // Tells a consumer its next tile, and copies its queries.
  __device__ __forceinline__ void assign(const TileSm90& tile, const ShareSm90& share,
                                         unsigned phase, int consumer) const {
    Gate& gate = shared.query_gate[consumer];
    gate.await_empty(phase);  // its last but one tile is stored, too
    Assignment& next = assignment(phase, consumer);
    next.tile = tile;
    next.share = share;
    ptx::mbarrier_arrive(ptx::shared_address(&shared.assigned[consumer]));
    load<kConsumerRows>(shared.queries[consumer], params.q_map,
                        gate.expect(kBlocks * Products::kQueryBlockBytes), tile,
                        tile.corner(params, consumer), tile.head, params.q_head_stride);
  }

  // A box of tokens, in blocks of channels; channels past the last are zero.
  template <int kRows>
  __device__ __forceinline__ void load(T (&target)[kBlocks][kRows * kBlockChannels],
                                       const TensorMap& map, unsigned barrier, const TileSm90& tile,
                                       const Coordinate& position, int head,
                                       int head_stride) const {
    const Coordinate at = tile.token_of(params, position);
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

  __device__ __forceinline__ void consume(int consumer) const {
    Cursor<kStages> keys, values;
    unsigned phase = 0;
    lay_tables(threadIdx.x - kGroupThreads);
    for (int item = blockIdx.x; item < params.items; item += gridDim.x, phase ^= 1) {
      await(shared.assigned[consumer], phase);
      const Assignment& assigned = assignment(phase, consumer);
      lay_windows(assigned.tile, consumer);
      skip(keys, values, assigned.share.before);
      shared.query_gate[consumer].await_full(phase);
      Sums sums = {};
      OnlineRow softmax[2];
      const int count = assigned.share.count;
      if (count > 0) {
        attend(sums, softmax, keys, values, count, consumer);
      } else {
        let_queries_go(consumer);
      }
      skip(keys, values, assigned.share.after);
      if (count > 0) store(assigned.tile, sums, softmax, consumer);
    }
  }

  // The windows of this consumer's rows.
  __device__ __forceinline__ void lay_windows(const TileSm90& tile, int consumer) const {
    ptx::named_barrier_sync(1 + consumer, kGroupThreads);  // all are done with the last tile's
    const int row = threadIdx.x % kGroupThreads;
    if (row < kConsumerRows) {
      bool is_real;
      const Coordinate at = tile.position_of(params, consumer, row, is_real);
      shared.windows[consumer][row] =
          Window{window_of(tile.line(params, 0), at.x), window_of(tile.line(params, 1), at.y),
                 window_of(tile.line(params, 2), at.z)};
    }
    ptx::named_barrier_sync(1 + consumer, kGroupThreads);
  }

  // Lets key tiles go that only others need.
  __device__ __forceinline__ void skip(Cursor<kStages>& keys, Cursor<kStages>& values,
                                       int count) const {
#pragma unroll 1
    for (; count > 0; --count) {
      shared.key_gate[keys.stage].await_full(keys.phase);
      let_go(shared.key_gate, keys);
      shared.value_gate[values.stage].await_full(values.phase);
      let_go(shared.value_gate, values);
    }
  }

  __device__ __forceinline__ void let_go(Gate (&gates)[kStages], Cursor<kStages>& cursor) const {
    if (threadIdx.x % 32 == 0) gates[cursor.stage].release();
    cursor.advance();
  }

  __device__ __forceinline__ void let_queries_go(int consumer) const {
    if (threadIdx.x % 32 == 0) shared.query_gate[consumer].release();
  }

  // All key tiles that the consumer's rows need.
  __device__ __forceinline__ void attend(Sums& sums, OnlineRow (&softmax)[2], Cursor<kStages>& keys,
                                         Cursor<kStages>& values, int count, int consumer) const {
    const T* queries = shared.queries[consumer][0];
    Scores scores;
    Weights weights;
    float factors[2];
    shared.key_gate[keys.stage].await_full(keys.phase);
    Products::multiply_keys(scores, queries, shared.keys[keys.stage][0]);
    Coordinate origin = shared.origins[keys.stage];
    ptx::wgmma_wait<0>();
    let_go(shared.key_gate, keys);
    if (count == 1) let_queries_go(consumer);
    weigh(scores, softmax, factors, origin, consumer);
    Products::pack_weights(weights, scores);
#pragma unroll 1
    for (int left = count - 1; left > 0; --left) {
      shared.key_gate[keys.stage].await_full(keys.phase);
      Products::multiply_keys(scores, queries, shared.keys[keys.stage][0]);
      shared.value_gate[values.stage].await_full(values.phase);
      Products::multiply_values(sums, weights, shared.values[values.stage][0]);
      origin = shared.origins[keys.stage];
      ptx::wgmma_wait<1>();
      let_go(shared.key_gate, keys);
      if (left == 1) let_queries_go(consumer);
      weigh(scores, softmax, factors, origin, consumer);
      ptx::wgmma_wait<0>();
      let_go(shared.value_gate, values);
      rescale(sums, factors);
      Products::pack_weights(weights, scores);
    }
    shared.value_gate[values.stage].await_full(values.phase);
    Products::multiply_values(sums, weights, shared.values[values.stage][0]);
    ptx::wgmma_wait<0>();
    let_go(shared.value_gate, values);
  }

  // Scores of a key tile become weights; `factors` bring what was summed before to their scale.
  __device__ __forceinline__ void weigh(Scores& scores, OnlineRow (&softmax)[2],
                                        float (&factors)[2], const Coordinate& origin,
                                        int consumer) const {
    if (params.sign != 1.f) {
#pragma unroll
      for (float& score : scores) score *= params.sign;
    }
    const Window* windows = shared.windows[consumer] + threadIdx.x % kGroupThreads / 32 * 16;
    if (!all_see(windows, origin)) mask(scores, windows, origin);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -infinity();
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) {
        largest = fmaxf(largest, fmaxf(scores[4 * i + 2 * half], scores[4 * i + 2 * half + 1]));
      }
      factors[half] = softmax[half].raise(max_over_quad(largest), params.scale_log2);
      const float shift = softmax[half].shift(params.scale_log2);
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) {
        float& left = scores[4 * i + 2 * half];
        float& right = scores[4 * i + 2 * half + 1];
        left = ptx::exp2_approx(left * params.scale_log2 - shift);
        right = ptx::exp2_approx(right * params.scale_log2 - shift);
        softmax[half].sum += left + right;
      }
    }
  }

  // Whether the whole key tile is wanted by all sixteen rows of the warp. They are a box: its first
  // row's windows end first, its last row's begin last.
  __device__ __forceinline__ bool all_see(const Window* windows, const Coordinate& origin) const {
    const KeyExtents keys = extents();
    const Window& first = windows[0];
    const Window& last = windows[15];
    return keys.product() == kKeys && last.x.begin <= origin.x &&
           origin.x + keys.x <= first.x.end && last.y.begin <= origin.y &&
           origin.y + keys.y <= first.y.end && last.z.begin <= origin.z &&
           origin.z + keys.z <= first.z.end;
  }

  __device__ __forceinline__ void mask(Scores& scores, const Window* windows,
                                       const Coordinate& origin) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned bits[kSetWords];
      columns_of(bits, windows[half * 8 + lane / 4], origin);
#pragma unroll
      for (int word = 0; word < kWords; ++word) bits[word] >>= lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < kKeys / 8; ++i) {
        float& left = scores[4 * i + 2 * half];
        float& right = scores[4 * i + 2 * half + 1];
        left = bits[i / 4] & 1u << i % 4 * 8 ? left : -infinity();
        right = bits[i / 4] & 2u << i % 4 * 8 ? right : -infinity();
      }
    }
  }

  // The columns of a key tile that a window holds.
  __device__ __forceinline__ void columns_of(unsigned (&bits)[kSetWords], const Window& window,
                                             const Coordinate& origin) const {
    const KeyExtents keys = extents();
    const Interval x = inside(window.x, origin.x, keys.x), y = inside(window.y, origin.y, keys.y);
    const Interval z = inside(window.z, origin.z, keys.z);
    const int of_y = keys.first_set_of_y(), of_z = keys.first_set_of_z();
#pragma unroll
    for (int i = 0; i < kSetWords; i += 4) {
      const uint4 from_x = set(x.begin, i), past_x = set(x.end, i);
      const uint4 from_y = set(of_y + y.begin, i), past_y = set(of_y + y.end, i);
      const uint4 from_z = set(of_z + z.begin, i), past_z = set(of_z + z.end, i);
      bits[i] = from_x.x & from_y.x & from_z.x & ~(past_x.x | past_y.x | past_z.x);
      bits[i + 1] = from_x.y & from_y.y & from_z.y & ~(past_x.y | past_y.y | past_z.y);
      bits[i + 2] = from_x.z & from_y.z & from_z.z & ~(past_x.z | past_y.z | past_z.z);
      bits[i + 3] = from_x.w & from_y.w & from_z.w & ~(past_x.w | past_y.w | past_z.w);
    }
  }

  __device__ __forceinline__ uint4 set(int index, int word) const {
    return *reinterpret_cast<const uint4*>(&shared.sets[index][word]);
  }

  // After the first tiles no row's maximum moves any more.
  __device__ __forceinline__ void rescale(Sums& sums, const float (&factors)[2]) const {
    if (!__any_sync(0xffffffffu, factors[0] != 1.f || factors[1] != 1.f)) return;
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) sums[i] *= factors[i / 2 % 2];
  }

  __device__ __forceinline__ void store(const TileSm90& tile, const Sums& sums,
                                        const OnlineRow (&softmax)[2], int consumer) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_over_quad(softmax[half].sum);
      const float inverse = 1.f / sum;
      const int row = threadIdx.x % kGroupThreads / 32 * 16 + half * 8 + lane / 4;
      bool is_real;
      const Coordinate at = tile.token_of(params, tile.position_of(params, consumer, row, is_real));
      if (params.lse.data != nullptr && lane % 4 == 0 && is_real) {
        *params.lse.at<float>(tile.batch, at.x, at.y, at.z, tile.head) =
            softmax[half].largest * params.scale + logf(sum);
      }
      T* target = params.out.at<T>(tile.batch, at.x, at.y, at.z, tile.head);
#pragma unroll
      for (int block = 0; block < kHeadDim / 32; ++block) {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int first = 16 * block + 4 * i + 2 * half;
          words[i] = pack<T>(sums[first] * inverse, sums[first + 1] * inverse);
        }
        transpose_over_quad(words);
        const int channel = block * 32 + lane % 4 * 8;
        if (is_real && channel < params.value_dim) {
          *reinterpret_cast<uint4*>(target + channel) =
              make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
    }
  }
};

}  // namespace cupyna
