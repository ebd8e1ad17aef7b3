// dQ in a pass over keys: consumers exchange dS, multiply it with all keys of the block, and leave
// the products to a warp that has the copy engine add them to sums in global memory.
#pragma once

#include "../../ptx/tma_sm90.cuh"
#include "gradient_block_sm90.cuh"

namespace cupyna {

template <typename Block>
struct GradientQueriesSm90 {
  using T = typename Block::T;
  using Tile = typename Block::Tile;
  using Walk = typename Block::Walk;
  using Products = typename Block::Products;
  using Weights = typename Products::Weights;
  static constexpr int kConsumers = Block::kConsumers, kGroupThreads = Block::kGroupThreads;
  static constexpr int kRows = Block::kRows, kColumns = Block::kColumns;
  static constexpr int kBlocks = Block::kBlocks, kQueryBlocks = Block::kQueryBlocks;
  static constexpr int kQueryChannels = Block::kQueryChannels;
  static constexpr int kPart = kColumns / Block::kParts;
  static constexpr bool kSharesQueries = Block::kSharesQueries;
  static constexpr int kChunks = kQueryChannels / 8, kChunkBytes = 8 * sizeof(float);
  using QuerySums = typename Block::QuerySums;

  const HopperGradientParams& params;
  typename Block::Shared& shared;

  // This consumer's dS of a part of the columns where both find it.
  __device__ __forceinline__ void lay_gradients(const Weights& packed, unsigned buffer, int part,
                                                int consumer) const {
    const int lane = threadIdx.x % 32;
    const int row = consumer * kConsumerRows + threadIdx.x % kGroupThreads / 32 * 16 + lane % 16;
#pragma unroll
    for (int depth = 0; depth < kPart / 16; ++depth) {
      const int chunk = depth % 4 * 2 + lane / 16;
      ptx::stmatrix_x4(ptx::shared_address(gradients_of(buffer, part + depth / 4)) +
                           row * kRowBytes + ((chunk ^ row % 8) * 16),
                       &packed[4 * depth]);
    }
    ptx::fence_proxy_async();
  }

  // All have laid theirs.
  __device__ __forceinline__ void meet() const {
    ptx::named_barrier_sync(1 + kConsumers, kConsumers * kGroupThreads);
  }

  // Queues dQ = dS K. Both are MN-major: their rows are keys, sixteen to a step of the sum.
  __device__ __forceinline__ void multiply_queries(QuerySums& sums, unsigned active,
                                                   unsigned buffer, int row_buffer,
                                                   int consumer) const {
    const int channel = kSharesQueries ? 0 : consumer * kQueryChannels;
    const ptx::Descriptor gradients = ptx::matrix_descriptor(
        ptx::shared_address(gradients_of(buffer, kSharesQueries ? consumer : 0)),
        kRows * kRowBytes);
    const T* keys_of_channel = shared.rows[row_buffer][0][0][channel / kBlockChannels];
    const ptx::Descriptor keys =
        ptx::matrix_descriptor(ptx::shared_address(keys_of_channel) +
                                   channel % kBlockChannels * static_cast<int>(sizeof(T)),
                               Products::kQueryBlockBytes);
    ptx::wgmma_fence();
    if (active == (1u << kConsumers) - 1) {
#pragma unroll
      for (int depth = 0; depth < kRows / 16; ++depth) {
        multiply_keys_of(sums, gradients, keys, depth / 4, depth % 4, depth != 0);
      }
      ptx::wgmma_commit();
    } else {
      const int only = active >> 1;
#pragma unroll
      for (int depth = 0; depth < kConsumerRows / 16; ++depth) {
        multiply_keys_of(sums, gradients, keys, only, depth, depth != 0);
      }
      ptx::wgmma_commit();
    }
  }

  // Where the thread's two rows of this consumer's part of dQ go.
  struct Targets {
    unsigned row[2], turned[2];  // in bytes
  };

  __device__ __forceinline__ Targets targets(int turn_of_place, int consumer) const {
    Targets targets;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = (kSharesQueries ? consumer * 64 : 0) + Block::row_of(half);
      // A consumer's chunks begin at a power of two: others differ in bits that the first lacks.
      const int turn = sum_turn(params.head_dim, 0, turn_of_place + shared.turns[query]);
      targets.turned[half] = (first_chunk(consumer) ^ turn) * kChunkBytes;
      targets.row[half] = ptx::shared_address(shared.sums) +
                          (query * params.head_dim + threadIdx.x % 4 * 2) * sizeof(float);
    }
    return targets;
  }

  // For the warp that adds it to global memory. `parity` counts tiles.
  __device__ __forceinline__ void lay_queries(const QuerySums& sums, const Targets& targets,
                                              unsigned parity, int consumer) const {
    shared.sum_gate.await_empty(parity);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kChunks; ++i) {
        if ((first_chunk(consumer) + i) * 8 < params.head_dim) {
          ptx::store_pair(targets.row[half] + (targets.turned[half] ^ i * kChunkBytes),
                          sums[4 * i + 2 * half], sums[4 * i + 2 * half + 1]);
        }
      }
    }
    say_queries_are_laid();
  }

  // One warp: the engine adds sums to those in global memory, tile after tile.
  __device__ __forceinline__ void run() const {
    unsigned parity = 0;
#pragma unroll 1
    for (unsigned count = 0; Block::item_of(count) < params.items; ++count) {
      const Cursor<2> plans(count);
      Gate& gate = shared.plan_gates[plans.stage];
      gate.await_full(plans.phase);
      add(Tile{params, shared.plans[plans.stage]}, parity);
      gate.release();
    }
  }

 private:
  // A run of neighboring tokens at a time.
  __device__ __forceinline__ void add(const Tile& tile, unsigned& parity) const {
    const int row_bytes = params.head_dim * static_cast<int>(sizeof(float));
    const int run = params.axis[2].dilation == 1 ? params.tile[2].key_extent : 1;
    Walk walk(tile);
#pragma unroll 1
    for (int left = tile.plan.steps; left > 0; --left, walk.advance(), parity ^= 1) {
      const unsigned last = Block::last_in_box(tile, walk.origin);
      const int count = min_of(run, tile.own(2).box_end - walk.origin.z);
      float* target =
          params.query_sums + tile.query_index(walk.origin, walk.head) * params.head_dim;
      shared.sum_gate.await_full(parity);
#pragma unroll 1
      for (int query = threadIdx.x % 32 * run; query < kColumns; query += 32 * run) {
        if (Block::is_not_past(shared.fields[query], last)) {
          ptx::add_bytes(target + static_cast<long long>(shared.tokens[query]) * params.head_dim,
                         ptx::shared_address(shared.sums + query * params.head_dim),
                         count * row_bytes);
        }
      }
      ptx::commit_bulk();
      ptx::wait_bulk_read<0>();
      __syncwarp();
      if (threadIdx.x % 32 == 0) shared.sum_gate.release();
    }
    __syncwarp();
  }

  static __device__ __forceinline__ int first_chunk(int consumer) {
    return kSharesQueries ? 0 : consumer * kChunks;
  }

  __device__ __forceinline__ T* gradients_of(unsigned buffer, int block) const {
    return shared.gradients + (buffer * kQueryBlocks + block) * kRows * 64;
  }

  static __device__ __forceinline__ void multiply_keys_of(QuerySums& sums,
                                                          ptx::Descriptor gradients,
                                                          ptx::Descriptor keys, int consumer,
                                                          int depth, int accumulate) {
    constexpr int kStep = 16 * kRowBytes / 16, kBlock = Products::kQueryBlockBytes / 16;
    ptx::Wgmma<T, kQueryChannels>::across(sums, gradients + consumer * kBlock + depth * kStep,
                                          keys + consumer * kBlocks * kBlock + depth * kStep,
                                          accumulate);
  }

  __device__ __forceinline__ void say_queries_are_laid() const {
    ptx::fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::mbarrier_arrive(ptx::shared_address(&shared.sum_gate.full));
  }
};

}  // namespace cupyna
