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

#include "../../common/numeric.cuh"
#include "../../common/warp.cuh"
#include "../../ptx/arithmetic.cuh"
#include "gradient_producer_sm90.cuh"
#include "gradient_queries_sm90.cuh"

namespace cupyna {

template <typename T, Side kSide, int kHeadDim, int kColumns, int kStages, bool kSumsQueries>
struct FusedGradientSm90 {
  using Block = GradientBlockSm90<T, kSide, kHeadDim, kColumns, kStages, kSumsQueries>;
  using Shared = typename Block::Shared;
  using Tile = typename Block::Tile;
  using Walk = typename Block::Walk;
  using Masks = typename Block::Masks;
  using Products = typename Block::Products;
  using Queries = GradientQueriesSm90<Block>;
  using Scores = typename Products::Scores;  // of one part
  using Sums = typename Products::Sums;
  using Weights = typename Products::Weights;
  static constexpr int kConsumers = Block::kConsumers, kGroupThreads = Block::kGroupThreads;
  static constexpr int kThreads = Block::kThreads, kBlocks = Block::kBlocks;
  static constexpr bool kRowsAreQueries = Block::kRowsAreQueries;
  // Statistics of 128 queries are fetched at a time.
  static constexpr int kProducerRegisters = kColumns == 128 ? 32 : 24;
  static constexpr int kConsumerRegisters = kColumns == 128 ? 232 : 240;
  // Columns are taken in parts where registers allow products of several at a time: some are in the
  // background while others are weighed.
  static constexpr int kParts = Block::kParts, kPart = kColumns / kParts;

  const HopperGradientParams& params;
  Shared& shared;

  __device__ __forceinline__ void run() {
    const Tile tile(params, shared.own);
    tile.place(shared.own);
    prepare();
    // The compiler must see that a whole warp takes one branch.
    const int group = __shfl_sync(kAllLanes, threadIdx.x / kGroupThreads, 0);
    if (group == 0) {
      ptx::lower_registers<kProducerRegisters>();
      const int warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0);
      if (warp == 0) {
        GradientProducerSm90<Block>{params, shared}.run(tile);
      } else if (kSumsQueries && warp == 1) {
        Queries{params, shared}.add(tile);
      }
    } else {
      ptx::raise_registers<kConsumerRegisters>();
      consume(tile, group - 1);
    }
  }

 private:
  __device__ __forceinline__ void prepare() const {
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        ptx::prefetch_tensor_map(&params.row_map[i]);
        ptx::prefetch_tensor_map(&params.column_map[i]);
      }
      shared.row_gate.init(1);
      // Every warp that sums dQ says so by itself; one warp reads.
      ptx::mbarrier_init(ptx::shared_address(&shared.sum_gate.full), 4 * kConsumers);
      ptx::mbarrier_init(ptx::shared_address(&shared.sum_gate.empty), 1);
      for (int i = 0; i < kStages; ++i) {
        // Bytes of the copies and, with the first ones, what the producer writes itself.
        ptx::mbarrier_init(ptx::shared_address(&shared.gates[0][i].full), 2);
        ptx::mbarrier_init(ptx::shared_address(&shared.gates[1][i].full), 1);
        for (int array = 0; array < 2; ++array) {
          // Every warp of a consumer lets go by itself.
          ptx::mbarrier_init(ptx::shared_address(&shared.gates[array][i].empty), 4 * kConsumers);
        }
      }
      ptx::fence_mbarrier_init();
    }
    const KeyExtents columns = Block::extents(params);
    for (int column = threadIdx.x; column < kColumns; column += kThreads) {
      const Coordinate to = columns.coordinate_of(column);
      const bool is_padding = column >= columns.product();
      shared.fields[column] = is_padding ? outside_fields() : pack_fields(to.x, to.y, to.z);
      shared.tokens[column] = (to.x * params.axis[0].dilation * params.axis[1].length +
                               to.y * params.axis[1].dilation) *
                                  params.axis[2].length +
                              to.z * params.axis[2].dilation;
    }
    Masks::lay(shared.sets, columns, threadIdx.x, kThreads);
    clear_padding(columns.product());
    ptx::fence_proxy_async();
    __syncthreads();
  }

  // Columns that no copy writes must hold finite numbers: weights of zero meet them.
  __device__ __forceinline__ void clear_padding(int product) const {
    constexpr int kRowVectors = kRowBytes / 16;
    const int padding = (kColumns - product) * kRowVectors;
    for (int i = threadIdx.x; i < padding * 2 * kStages * kBlocks; i += kThreads) {
      T* block = shared.columns[0][0][0] + i / padding * Block::kColumnBlock;
      reinterpret_cast<uint4*>(block)[product * kRowVectors + i % padding] = make_uint4(0, 0, 0, 0);
    }
  }

  __device__ __forceinline__ void consume(const Tile& tile, int consumer) const {
    Statistics own[2];  // of the thread's rows, where they are queries
    lay_rows(tile, consumer, own);
    Sums first = {};   // dK or dQ
    Sums second = {};  // dV
    shared.row_gate.await_full(0);
    Cursor<kStages> cursor;
    unsigned buffer = 0;
#pragma unroll 1
    for (int left = Walk(tile).steps(); left > 0; --left, cursor.advance(), buffer ^= 1) {
      shared.gates[0][cursor.stage].await_full(cursor.phase);
      const GradientPlace place = shared.places[cursor.stage];
      if (place.active >> consumer & 1) {
        step(first, second, own, tile, place, cursor, buffer, consumer);
      } else {
        skip(tile, place, cursor, buffer, consumer);
      }
    }
    store(tile, params.gradient[0], first, params.scale, params.head_dim, consumer);
    if constexpr (!kRowsAreQueries) {
      store(tile, params.gradient[1], second, 1.f, params.value_dim, consumer);
    }
  }

  // Windows of this consumer's rows, and what is known of its queries.
  __device__ __forceinline__ void lay_rows(const Tile& tile, int consumer,
                                           Statistics (&own)[2]) const {
    const int row = threadIdx.x % kGroupThreads;
    if (row < kConsumerRows) {
      bool is_real;
      const Coordinate at = tile.position_of(consumer, row, is_real);
      shared.windows[consumer][row] = tile.partners_of(at, is_real);
    }
    if constexpr (kRowsAreQueries) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        bool is_real;
        const Coordinate at = tile.position_of(consumer, Block::row_of(half), is_real);
        own[half] = params.statistics[tile.query_index(at, tile.head)];
      }
    }
    ptx::named_barrier_sync(1 + consumer, kGroupThreads);
  }

  __device__ __forceinline__ void let_go(Gate& gate) const {
    if (threadIdx.x % 32 == 0) gate.release();
  }

  __device__ __forceinline__ void step(Sums& first, Sums& second, const Statistics (&own)[2],
                                       const Tile& tile, const GradientPlace& place,
                                       const Cursor<kStages>& cursor, unsigned buffer,
                                       int consumer) const {
    const int stage = cursor.stage;
    const T* firsts = shared.columns[0][stage][0];
    const T* seconds = shared.columns[1][stage][0];
    constexpr int kPartElements = kPart * kBlockChannels;
    const Queries queries{params, shared};
    const bool is_edge = !all_see(place.origin, consumer);
    Scores weights[kParts], gradients[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      Products::multiply_keys(weights[part], shared.rows[0][consumer][0],
                              firsts + part * kPartElements);
    }
    shared.gates[1][stage].await_full(cursor.phase);
    Products::multiply_keys(gradients[0], shared.rows[1][consumer][0], seconds);
    Weights packed[kParts], packed_gradients[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      if (part == 0) ptx::wgmma_wait<kParts>();
      weigh(weights[part], own, stage, part);
      if (is_edge) clear(weights[part], place.origin, part, consumer);
      if constexpr (kRowsAreQueries) {
        ptx::wgmma_wait<0>();
        let_go(shared.gates[1][stage]);
      } else {
        Products::pack_weights(packed[part], weights[part]);
        Products::multiply_values(second, packed[part], seconds + part * kPartElements);
        if (part + 1 < kParts) {
          Products::multiply_keys(gradients[part + 1], shared.rows[1][consumer][0],
                                  seconds + (part + 1) * kPartElements);
        }
        ptx::wgmma_wait<kParts>();  // what is queued after this part's second product
      }
      differentiate(weights[part], gradients[part], own, stage, part);
      Products::pack_weights(packed_gradients[part], weights[part]);
      if constexpr (kSumsQueries) {
        queries.lay_gradients(packed_gradients[part], buffer, part, consumer);
      }
      if (part + 1 < kParts) {
        Products::multiply_values(first, packed_gradients[part], firsts + part * kPartElements);
      }
    }
    constexpr int kLast = kParts - 1;
    if constexpr (kSumsQueries) {
      queries.meet();
      typename Queries::QuerySums sums;
      queries.multiply_queries(sums, place.active, buffer, consumer);
      Products::multiply_values(first, packed_gradients[kLast], firsts + kLast * kPartElements);
      ptx::wgmma_wait<1>();
      let_go(shared.gates[1][stage]);
      queries.lay_queries(sums, tile, place, buffer, consumer);
    } else {
      Products::multiply_values(first, packed_gradients[kLast], firsts + kLast * kPartElements);
      if constexpr (!kRowsAreQueries) {
        ptx::wgmma_wait<1>();
        let_go(shared.gates[1][stage]);
      }
    }
    ptx::wgmma_wait<0>();
    let_go(shared.gates[0][stage]);
  }

  // Columns that only the other consumer's rows meet; this one takes its part in their dQ.
  __device__ __forceinline__ void skip(const Tile& tile, const GradientPlace& place,
                                       const Cursor<kStages>& cursor, unsigned buffer,
                                       int consumer) const {
    if constexpr (kSumsQueries) {
      const Queries queries{params, shared};
      queries.meet();
      if (place.active != 0) {
        typename Queries::QuerySums sums;
        queries.multiply_queries(sums, place.active, buffer, consumer);
        ptx::wgmma_wait<0>();
        queries.lay_queries(sums, tile, place, buffer, consumer);
      } else {
        queries.lay_no_queries(tile, place, buffer, consumer);
      }
    }
    let_go(shared.gates[0][cursor.stage]);
    shared.gates[1][cursor.stage].await_full(cursor.phase);
    let_go(shared.gates[1][cursor.stage]);
  }

  // Statistics of the queries of a part's columns 8 i + 2 (lane % 4) + {0, 1}.
  __device__ __forceinline__ float4 statistics_of(int stage, int part, int i) const {
    return *reinterpret_cast<const float4*>(
        &shared.statistics[stage * kColumns + part * kPart + 8 * i + threadIdx.x % 4 * 2]);
  }

  __device__ __forceinline__ const Window* windows_of(int consumer) const {
    return shared.windows[consumer] + threadIdx.x % kGroupThreads / 32 * 16;
  }

  __device__ __forceinline__ bool all_see(const Coordinate& origin, int consumer) const {
    return Masks{Block::extents(params), shared.sets}.all_see(windows_of(consumer), origin);
  }

  __device__ __forceinline__ void clear(Scores& weights, const Coordinate& origin, int part,
                                        int consumer) const {
    const Masks masks{Block::extents(params), shared.sets};
    masks.template clear<kPart>(weights, windows_of(consumer), origin, part * kPart / 32);
  }

  // Scores become weights.
  __device__ __forceinline__ void weigh(Scores& scores, const Statistics (&own)[2], int stage,
                                        int part) const {
    const float factor = params.scale_log2;
#pragma unroll
    for (int i = 0; i < kPart / 8; ++i) {
      float even[2], odd[2];
      if constexpr (kRowsAreQueries) {
        even[0] = odd[0] = own[0].lse_log2;
        even[1] = odd[1] = own[1].lse_log2;
      } else {
        const float4 found = statistics_of(stage, part, i);
        even[0] = even[1] = found.x;
        odd[0] = odd[1] = found.z;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& left = scores[4 * i + 2 * half];
        float& right = scores[4 * i + 2 * half + 1];
        left = ptx::exp2_approx(left * factor - even[half]);
        right = ptx::exp2_approx(right * factor - odd[half]);
      }
    }
  }

  // Weights become gradients of scores.
  __device__ __forceinline__ void differentiate(Scores& weights, const Scores& gradients,
                                                const Statistics (&own)[2], int stage,
                                                int part) const {
#pragma unroll
    for (int i = 0; i < kPart / 8; ++i) {
      if constexpr (kRowsAreQueries) {
#pragma unroll
        for (int e = 0; e < 4; ++e) weights[4 * i + e] *= gradients[4 * i + e] - own[e / 2].delta;
      } else {
        const float4 found = statistics_of(stage, part, i);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          weights[4 * i + e] *= gradients[4 * i + e] - (e % 2 == 0 ? found.y : found.w);
        }
      }
    }
  }

  __device__ __forceinline__ void store(const Tile& tile, const Array& array, const Sums& sums,
                                        float factor, int channels, int consumer) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate at = tile.token_of(tile.position_of(consumer, Block::row_of(half), is_real));
      T* target = array.at<T>(tile.batch, at.x, at.y, at.z, tile.head);
#pragma unroll
      for (int block = 0; block < kHeadDim / 32; ++block) {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int first = 16 * block + 4 * i + 2 * half;
          words[i] = pack<T>(sums[first] * factor, sums[first + 1] * factor);
        }
        transpose_over_quad(words);
        const int channel = block * 32 + lane % 4 * 8;
        if (is_real && channel < channels) {
          *reinterpret_cast<uint4*>(target + channel) =
              make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
    }
  }
};

}  // namespace cupyna
