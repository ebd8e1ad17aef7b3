// The fused backward on Hopper: one warp copies boxes, warpgroups of consumers compute.
//
//   producer   K and V (or Q and dO) of each consumer's rows, then per tile of columns Q and dO (or
//              K and V) into a ring, with the statistics of its queries
//   consumers  64 rows each, all against the same columns:
//     P  = exp(scale first first^T - lse)      the second product runs in the background
//     dS = P (second second^T - delta)         while dV is summed
//     rows are queries:  dQ += dS K
//     rows are keys:     dV += P^T dO,  dK += dS^T Q     (P and dS are held transposed)
//                        dS -> shared memory, dQ = dS K -> shared memory while dK is summed
//   adder      where keys sum dQ, too: another warp has the copy engine add it to global memory
//
// P and dS are operands of the sums straight from the registers of the products. For dQ consumers
// exchange dS, two buffers in turn: one barrier for each tile of columns.
#pragma once

#include "../../common/warp.cuh"
#include "../../ptx/arithmetic.cuh"
#include "gradient_planner_sm90.cuh"
#include "gradient_producer_sm90.cuh"
#include "gradient_queries_sm90.cuh"
#include "gradient_weights_sm90.cuh"
#include "store_sm90.cuh"

namespace cupyna {

template <typename T, Side kSide, int kHeadDim, int kColumns, int kStages, int kRowBuffers,
          bool kSumsQueries>
struct FusedGradientSm90 {
  using Block = GradientBlockSm90<T, kSide, kHeadDim, kColumns, kStages, kRowBuffers, kSumsQueries>;
  using Shared = typename Block::Shared;
  using Tile = typename Block::Tile;
  using Walk = typename Block::Walk;
  using Masks = typename Block::Masks;
  using Products = typename Block::Products;
  using Queries = GradientQueriesSm90<Block>;
  using Weighing = GradientWeightsSm90<Block>;
  using Scores = typename Products::Scores;  // of one part
  using Sums = typename Products::Sums;
  using Weights = typename Products::Weights;
  static constexpr int kConsumers = Block::kConsumers, kGroupThreads = Block::kGroupThreads;
  static constexpr int kThreads = Block::kThreads, kBlocks = Block::kBlocks;
  static constexpr bool kRowsAreQueries = Block::kRowsAreQueries;
  // Three sums and two products of more than 96 channels take the registers of all others.
  static constexpr bool kIsTight = kSumsQueries && kHeadDim > 96;
  static constexpr int kProducerRegisters = kIsTight ? 24 : 40;
  static constexpr int kConsumerRegisters = kIsTight ? 240 : 232;
  // Columns are taken in parts where registers allow products of several at a time: some are in the
  // background while others are weighed.
  static constexpr int kParts = Block::kParts, kPart = kColumns / kParts;
  static constexpr int kPartElements = kPart * kBlockChannels;
  // The first ones of a tile's weights are multiplied while others are still computed.
  static constexpr int kSlices = kSumsQueries && kParts == 1 ? 2 : 1;
  // While consumers exchange dS and lay down dQ, a tile's last and the next one's first product
  // run.
  static constexpr bool kIsAhead = kSumsQueries;

  const HopperGradientParams& params;
  Shared& shared;

  __device__ __forceinline__ void run() {
    Block::prepare(params, shared);
    // The compiler must see that a whole warp takes one branch.
    const int group = __shfl_sync(kAllLanes, threadIdx.x / kGroupThreads, 0);
    if (group == 0) {
      ptx::lower_registers<kProducerRegisters>();
      const int warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0);
      if (warp == 0) {
        GradientProducerSm90<Block>{params, shared}.run();
      } else if (warp >= 2) {
        GradientPlannerSm90<Block>{params, shared}.run(warp - 2);
      } else if (kSumsQueries) {
        Queries{params, shared}.run();
      }
    } else {
      ptx::raise_registers<kConsumerRegisters>();
      consume(group - 1);
    }
  }

 private:
  __device__ __forceinline__ void consume(int consumer) const {
    Cursor<kStages> cursor;
    unsigned buffer = 0;
#pragma unroll 1
    for (unsigned count = 0; Block::item_of(count) < params.items; ++count) {
      const Cursor<2> plans(count);
      const Cursor<kRowBuffers> rows(count);
      Gate& gate = shared.plan_gates[plans.stage];
      gate.await_full(plans.phase);
      const Tile tile{params, shared.plans[plans.stage]};
      Sums first = {};   // dK or dQ
      Sums second = {};  // dV
      shared.row_gates[rows.stage].await_full(rows.phase);
      if (tile.plan.steps > 0) {
        sum_up(first, second, tile, rows.stage, cursor, buffer, consumer);
      }
      let_go(shared.row_gates[rows.stage]);
      store(tile, params.gradient[0], first, params.scale, params.head_dim, consumer);
      if constexpr (!kRowsAreQueries) {
        store(tile, params.gradient[1], second, 1.f, params.value_dim, consumer);
      }
      gate.release();
    }
  }

  // All columns of a tile.
  __device__ __forceinline__ void sum_up(Sums& first, Sums& second, const Tile& tile,
                                         int row_buffer, Cursor<kStages>& cursor, unsigned& buffer,
                                         int consumer) const {
    Statistics own[2];  // of the thread's rows, where they are queries
    if constexpr (kRowsAreQueries) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        own[half] = tile.plan.statistics[consumer * kConsumerRows + Block::row_of(half)];
      }
    }
    Scores scores[kParts] = {};  // of the tile of columns that is next
    GradientPlace place = await_place(cursor);
    if (kIsAhead && place.is_met_by(consumer)) {
      queue_scores(scores, row_buffer, cursor.stage, consumer);
      shared.gates[1][cursor.stage].await_full(cursor.phase);
      ptx::wgmma_wait<0>();
    }
#pragma unroll 1
    for (int left = tile.plan.steps; left > 0; --left, cursor.advance(), buffer ^= 1) {
      if (place.is_met_by(consumer)) {
        step(first, second, scores, place, own, tile, row_buffer, cursor, buffer, consumer,
             left > 1);
      } else {
        skip(scores, place, row_buffer, cursor, buffer, consumer, left > 1);
      }
    }
  }

  __device__ __forceinline__ void queue_scores(Scores (&scores)[kParts], int row_buffer, int stage,
                                               int consumer) const {
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Products::multiply_keys(scores[part], shared.rows[row_buffer][0][consumer][0],
                              shared.columns[0][stage][0] + part * kPartElements);
    }
  }

  static __device__ __forceinline__ Cursor<kStages> after(Cursor<kStages> cursor) {
    cursor.advance();
    return cursor;
  }

  __device__ __forceinline__ void let_go(Gate& gate) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) gate.release();
  }

  // Waits for a tile of columns.
  __device__ __forceinline__ GradientPlace await_place(const Cursor<kStages>& cursor) const {
    shared.gates[0][cursor.stage].await_full(cursor.phase);
    return shared.places[cursor.stage];
  }

  // Where products run ahead, `scores` are of the tile and become those of the next; so does its
  // place.
  __device__ __forceinline__ void step(Sums& first, Sums& second, Scores (&scores)[kParts],
                                       GradientPlace& place, const Statistics (&own)[2],
                                       const Tile& tile, int row_buffer,
                                       const Cursor<kStages>& cursor, unsigned buffer, int consumer,
                                       bool has_next) const {
    const int stage = cursor.stage;
    const T* firsts = shared.columns[0][stage][0];
    const T* seconds = shared.columns[1][stage][0];
    const T* own_seconds = shared.rows[row_buffer][1][consumer][0];
    const Queries queries{params, shared};
    const Weighing weighing{params, shared};
    Scores lone[kParts];
    Scores(&weights)[kParts] = *(kIsAhead ? &scores : &lone);
    Scores gradients[kParts];
    if constexpr (!kIsAhead) queue_scores(weights, row_buffer, stage, consumer);
    const bool is_edge = !place.is_seen_by((threadIdx.x - kGroupThreads) / 32);
    if constexpr (!kIsAhead) shared.gates[1][stage].await_full(cursor.phase);
    Products::multiply_keys(gradients[0], own_seconds, seconds);
    typename Masks::Bits bits;
    if (is_edge) {
      const Masks masks{Block::extents(params), shared.sets};
      masks.find(bits, windows_of(tile, consumer), place.origin);
    }
    Weights packed[kParts], packed_gradients[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      // Where products run ahead there is nothing to wait for: but exponentials that come of what
      // is read behind a wait do not stand between the instructions of the product before it.
      if (part == 0) ptx::wgmma_wait<kIsAhead ? 1 : kParts>();
#pragma unroll
      for (int slice = 0; slice < kSlices; ++slice) {
        weighing.template weigh<kSlices>(weights[part], own, stage, part, slice);
        if (is_edge) {
          Masks::template select<kPart, kSlices>(weights[part], bits, part * kPart / 32, 0.f,
                                                 slice);
        }
        if constexpr (!kRowsAreQueries) {
          Products::template pack_weights<kSlices>(packed[part], weights[part], slice);
          Products::template multiply_values<kSlices>(second, packed[part],
                                                      seconds + part * kPartElements, slice);
        }
      }
      if constexpr (kRowsAreQueries) {
        ptx::wgmma_wait<0>();
        let_go(shared.gates[1][stage]);
      } else {
        if (part + 1 < kParts) {
          Products::multiply_keys(gradients[part + 1], own_seconds,
                                  seconds + (part + 1) * kPartElements);
        }
        ptx::wgmma_wait<kParts + kSlices - 1>();  // what is queued after this second product
      }
      weighing.differentiate(weights[part], gradients[part], own, stage, part);
      Products::pack_weights(packed_gradients[part], weights[part]);
      Products::multiply_values(first, packed_gradients[part], firsts + part * kPartElements);
      if constexpr (kSumsQueries) {
        queries.lay_gradients(packed_gradients[part], buffer, part, consumer);
      }
    }
    if constexpr (!kRowsAreQueries) {
      ptx::wgmma_wait<1>();  // dV
      let_go(shared.gates[1][stage]);
    }
    if constexpr (kSumsQueries) {
      queries.meet();
      typename Queries::QuerySums sums;
      queries.multiply_queries(sums, place.active(), buffer, row_buffer, consumer);
      finish(weights, place, sums, row_buffer, cursor, buffer, consumer, has_next);
    } else {
      if (has_next) place = await_place(after(cursor));
      ptx::wgmma_wait<0>();
      shared.gates[0][stage].release();
    }
  }

  // Columns that only the other consumer's rows meet; this one takes its part in their dQ.
  __device__ __forceinline__ void skip(Scores (&scores)[kParts], GradientPlace& place,
                                       int row_buffer, const Cursor<kStages>& cursor,
                                       unsigned buffer, int consumer, bool has_next) const {
    const int stage = cursor.stage;
    shared.gates[1][stage].await_full(cursor.phase);
    let_go(shared.gates[1][stage]);
    if constexpr (kSumsQueries) {
      const Queries queries{params, shared};
      typename Queries::QuerySums sums = {};
      queries.meet();
      if (place.active() != 0) {
        queries.multiply_queries(sums, place.active(), buffer, row_buffer, consumer);
        ptx::wgmma_wait<0>();
      }
      finish(scores, place, sums, row_buffer, cursor, buffer, consumer, has_next);
    } else {
      if (has_next) place = await_place(after(cursor));
      shared.gates[0][stage].release();
    }
  }

  // The next tile's scores run while this one's dQ is laid.
  __device__ __forceinline__ void finish(Scores (&scores)[kParts], GradientPlace& place,
                                         const typename Queries::QuerySums& sums, int row_buffer,
                                         const Cursor<kStages>& cursor, unsigned buffer,
                                         int consumer, bool has_next) const {
    const int stage = cursor.stage;
    const Queries queries{params, shared};
    const typename Queries::Targets targets = queries.targets(place.turn, consumer);
    const Cursor<kStages> next = after(cursor);
    if (has_next) place = await_place(next);
    if (has_next && place.is_met_by(consumer)) {
      ptx::wgmma_wait<1>();  // dK: the operands of both would not fit
      queue_scores(scores, row_buffer, next.stage, consumer);
      ptx::wgmma_wait<kParts>();
      shared.gates[0][stage].release();
      queries.lay_queries(sums, targets, buffer, consumer);
      shared.gates[1][next.stage].await_full(next.phase);
      ptx::wgmma_wait<0>();
    } else {
      ptx::wgmma_wait<0>();
      shared.gates[0][stage].release();
      queries.lay_queries(sums, targets, buffer, consumer);
      // Or the compiler keeps the old ones.
      for (Scores& part : scores) {
#pragma unroll
        for (float& score : part) score = 0.f;
      }
    }
  }

  // Of the sixteen rows of the warp.
  static __device__ __forceinline__ const Window* windows_of(const Tile& tile, int consumer) {
    return tile.plan.windows + consumer * kConsumerRows + threadIdx.x % kGroupThreads / 32 * 16;
  }

  __device__ __forceinline__ void store(const Tile& tile, const Array& array, const Sums& sums,
                                        float factor, int channels, int consumer) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate at = tile.token_of(tile.position_of(consumer, Block::row_of(half), is_real));
      T* target = array.at<T>(tile.plan.batch, at.x, at.y, at.z, tile.plan.head);
      store_row(target, sums, factor, half, channels, is_real);
    }
  }
};

}  // namespace cupyna
