// The fused backward: one block takes a tile of rows through the box of columns that they meet.
//
// Where rows are queries it gives dQ, where they are keys dK and dV. Each pass recomputes the
// weights from the log-sum-exp, so no gradient is summed by two blocks: no atomics, no workspace
// but two numbers for each query, and the same bits in every run. A pass over keys may also give
// dQ (kSumsQueries): two products less in all, but sums of dQ that blocks add to in any order.
//
//   per column tile (asynchronous copies run one tile ahead, two stages), kBlock columns at a time:
//     P  = exp(scale first first^T - lse)      rows of Q, K against columns of K, Q
//     dS = P (second second^T - delta)         rows of dO, V against columns of V, dO
//     rows are queries:  dQ += dS K
//     rows are keys:     dV += P^T dO,  dK += dS^T Q     (P and dS are held transposed)
//                        dS -> shared memory, dQ = dS K -> added to global memory
//
// Where kShares warps have the same rows, each sums a share of the channels. Either each computes
// all weights, or, of tiles that are wide enough, the weights of a block of its own (kSplits) and
// hands them to the other through shared memory: rows of 32 with 32 columns to a warp take two
// thirds of the reads of shared memory that rows of 16 take.
//
// With kBeside keys are those that every query sees beside its window. Sums of their gradients are
// those of a slice of the queries, and dQ is added to what the windows give.
//
// delta = sum(dO * O) - dlse of each query. The pass over queries computes it and leaves it, with
// the log-sum-exp, for the pass over keys; before a lone pass over keys a small kernel does. P and
// dS are rounded to the element type between the products and never leave the registers of the warp
// that owns their rows.
#pragma once

#include "beside_sm80.cuh"
#include "edges_sm80.cuh"
#include "products_sm80.cuh"
#include "query_products_sm80.cuh"
#include "row_statistics_sm80.cuh"
#include "tile_sm80.cuh"

namespace cupyna {

template <typename T, Flavor kFlavor, Side kSide, int kHeadDim, int kRowTiles, int kWarps,
          int kColumns, int kBlock, bool kSumsQueries, int kShares, bool kBeside = false>
struct FusedGradientSm80
    : FusedTileSm80<T, kSide, 2, kHeadDim, kRowTiles, kWarps, kColumns, kShares, 2, kBeside> {
  using Tile =
      FusedTileSm80<T, kSide, 2, kHeadDim, kRowTiles, kWarps, kColumns, kShares, 2, kBeside>;
  using Products = ProductsSm80<T, kFlavor, kHeadDim, kRowTiles, kBlock, kHeadDim / kShares>;
  using Tile::head, Tile::line, Tile::own;
  using Tile::kRowsAreQueries, Tile::kThreads, Tile::kWarpRows;
  using typename Tile::WarpBox;
  using Scores = typename Products::Scores;
  using Sums = typename Products::Sums;

  static_assert(!kSumsQueries || !kRowsAreQueries, "queries sum their own gradients");

  // Whether shares compute a block of columns each; they sum over the blocks of both.
  static constexpr bool kSplits = kShares == 2 && kColumns == 2 * kBlock;
  static_assert(kShares == 1 || kSplits || kColumns == kBlock, "a share has a block or all");
  // Whether shares, two warps of one scheduler, do the same things at different times: one
  // multiplies while the other computes addresses.
  static constexpr bool kTakesTurns = kSplits && kSumsQueries;
  static constexpr int kFragments = kRowTiles * kBlock / Products::kWeightDepth;

  using Columns = Swizzle<kColumns * 2>;
  using Queries = QueryProductsSm80<T, kHeadDim, kColumns, kWarps * kShares>;

  template <bool kIsHanded>
  using Handed = uint4[kSplits && kIsHanded ? kShares * kWarps : 1]
                      [kSplits && kIsHanded ? kFragments : 1][kSplits && kIsHanded ? 32 : 1];

  struct Shared : Tile::Shared {
    // Where shares split columns: weights and their gradients as fragments of products, for the
    // warp with the same rows. Of gradients `scores` has them too, where it is there.
    Handed<!kRowsAreQueries> weights;
    Handed<!kSumsQueries> gradients;
    // Where dQ is summed too: dS of a column tile, [key, query], and the warps that met it.
    alignas(kSumsQueries ? 128 : 16) T scores[kSumsQueries ? Tile::kRows * kColumns : 1];
    bool has_met[kWarps];
  };

  // Elsewhere registers are too short for the addresses of biases.
  static constexpr bool kTakesBias = kRowTiles == 1 && (kBlock == kColumns || kSplits);

  const GradientParams& params;
  Shared& shared;

  __device__ FusedGradientSm80(const GradientParams& params, Shared& shared)
      : Tile(params,
             kRowsAreQueries ? Operands{params.q, params.dout} : Operands{params.k, params.v},
             kRowsAreQueries ? Operands{params.k, params.v} : Operands{params.q, params.dout},
             params.statistics, shared),
        params(params),
        shared(shared) {}

  __device__ __forceinline__ void run() {
    Tile::prepare();
    Sums first = {};   // dQ or dK
    Sums second = {};  // dV
    const int warp = kShares == 1 ? threadIdx.x / 32 : threadIdx.x / 32 % kWarps;
    if constexpr (kRowsAreQueries) lay_row_statistics(*this, params, warp);
    for (int stage = 0, place = 0; Tile::arrive(place); stage ^= 1) {
      if (!kTakesTurns || share() == 0) Tile::copy_next(stage, place);
      Tile::continue_walk(place);
      const Coordinate origin = shared.walk[place].origin;
      const WarpBox box = shared.boxes[warp];
      const bool has_met = Tile::meets(box.any, origin);
      if (has_met) {
        const int query_head = kRowsAreQueries ? head : shared.walk[place].head;
        const bool is_edge = !Tile::is_within(box.all, origin);
        if constexpr (kSplits) {
          step(first, second, origin, query_head, stage, share() * kBlock, warp, is_edge);
        } else {
#pragma unroll 1
          for (int block = 0; block < kColumns; block += kBlock) {
            step(first, second, origin, query_head, stage, block, warp, is_edge);
          }
        }
      }
      if (kTakesTurns && share() == 1) Tile::copy_next(stage, place);
      if constexpr (kSumsQueries) {
        if (threadIdx.x % 32 == 0) shared.has_met[ptx::computed_here(warp)] = has_met;
      }
      if constexpr (kSumsQueries || kSplits) __syncthreads();
      if constexpr (kTakesTurns) {
#pragma unroll 1
        for (int turn = 0; turn < kShares; ++turn) {
          if (share() != turn) {
            sum_queries(shared.walk[place]);
          } else if (has_met) {
            sum_others(first, second, stage, warp);
          }
        }
      } else {
        if constexpr (kSplits) {
          if (has_met) sum_others(first, second, stage, warp);
        }
        if constexpr (kSumsQueries) sum_queries(shared.walk[place]);
      }
      place = Tile::after(place);
    }
    store(first, second, warp);
  }

 private:
  // Where the warp's share of the channels that it sums begins.
  static __device__ __forceinline__ int share() {
    if constexpr (kShares == 1) return 0;
    // Registers are too short to keep what follows from it from one tile to the next.
    return (kSplits ? ptx::computed_here(threadIdx.x) : threadIdx.x) / 32 / kWarps;
  }
  static __device__ __forceinline__ int first_chunk() {
    return share() * (kHeadDim / kShares / Tile::kPerChunk);
  }

  // What backward knows of the query of one of a thread's four accumulators.
  __device__ __forceinline__ Statistics statistics_of(int row_tile, int pair, int i,
                                                      int first_column, int warp) const {
    if constexpr (kRowsAreQueries) {
      return shared.statistics[Tile::row_of(warp, row_tile, i / 2)];
    } else {
      // Those of two neighbors in one read.
      const float4 two = *reinterpret_cast<const float4*>(
          &shared.statistics[first_column + pair * 8 + threadIdx.x % 4 * 2]);
      return i % 2 == 0 ? Statistics{two.x, two.y} : Statistics{two.z, two.w};
    }
  }

  __device__ __forceinline__ void step(Sums& first, Sums& second, const Coordinate& origin,
                                       int query_head, int stage, int block, int warp,
                                       bool is_edge) const {
    const T* firsts = shared.first[stage] + block * kHeadDim;
    const T* seconds = shared.second[stage] + block * kHeadDim;
    // The first of the block's statistics, where they belong to columns.
    const int first_column = stage * kColumns + block;

    float factor = params.scale_log2;
    Scores weights = {};
    const unsigned first_rows = Products::place_of_rows(shared.rows[0], warp);
    Products::multiply_rows(weights, firsts, [&](unsigned (&fragment)[4], int row_tile, int depth) {
      Products::load_row(fragment, first_rows, row_tile, depth);
    });
    const bool has_bias = kTakesBias && params.bias.data != nullptr;
    if (kTakesBias && has_bias) {
      add_bias<T>(*this, weights, origin, query_head, warp, params.scale_log2, block);
      factor = 1;
    }
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int pair = 0; pair < kBlock / 8; ++pair) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& weight = weights[row_tile][pair][i];
          const Statistics of_query = statistics_of(row_tile, pair, i, first_column, warp);
          weight = ptx::exp2_approx(weight * factor - of_query.lse_log2);
        }
      }
    }
    if (is_edge && !has_bias) {
      mask_scores(*this, weights, origin, warp, 0.f, block);
    }
    if constexpr (!kRowsAreQueries) {
      typename Products::Weights rounded;
      Products::round(rounded, weights);
      if constexpr (kSplits) hand_over(shared.weights, rounded);
      Products::sum_columns(second, rounded, seconds, first_chunk());
    }
    Scores gradients = {};
    const unsigned second_rows = Products::template place_of_rows<kSplits>(shared.rows[1], warp);
    Products::template multiply_rows<kSplits>(
        gradients, seconds, [&](unsigned (&fragment)[4], int row_tile, int depth) {
          Products::load_row(fragment, second_rows, row_tile, depth);
        });
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int pair = 0; pair < kBlock / 8; ++pair) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const Statistics of_query = statistics_of(row_tile, pair, i, first_column, warp);
          weights[row_tile][pair][i] *= gradients[row_tile][pair][i] - of_query.delta;
        }
      }
    }
    typename Products::Weights rounded;
    Products::round(rounded, weights);
    if constexpr (kSplits && !kSumsQueries) hand_over(shared.gradients, rounded);
    Products::sum_columns(first, rounded, firsts, first_chunk());
    if constexpr (kSumsQueries) lay_gradients(rounded, block, warp);
  }

  // Leaves what the warp computed of its columns for the one that has the same rows.
  template <typename Room>
  static __device__ __forceinline__ void hand_over(Room& room,
                                                   const typename Products::Weights& weights) {
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      const unsigned (&four)[4] = weights[i / kRowTiles][i % kRowTiles];
      room[threadIdx.x / 32][i][threadIdx.x % 32] = make_uint4(four[0], four[1], four[2], four[3]);
    }
  }

  template <typename Room>
  static __device__ __forceinline__ void take_over(typename Products::Weights& weights,
                                                   const Room& room) {
    const int other = (threadIdx.x / 32 + kWarps) % (kShares * kWarps);
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      const uint4 four = room[other][i][threadIdx.x % 32];
      unsigned (&fragment)[4] = weights[i / kRowTiles][i % kRowTiles];
      fragment[0] = four.x;
      fragment[1] = four.y;
      fragment[2] = four.z;
      fragment[3] = four.w;
    }
  }

  // Sums over the columns whose weights the other warp with the same rows computed.
  __device__ __forceinline__ void sum_others(Sums& first, Sums& second, int stage, int warp) const {
    const int block = kBlock - share() * kBlock;
    typename Products::Weights others;
    if constexpr (!kRowsAreQueries) {
      take_over(others, shared.weights);
      Products::sum_columns(second, others, shared.second[stage] + block * kHeadDim, first_chunk());
    }
    if constexpr (kSumsQueries) {
      load_gradients(others, block, warp);
    } else {
      take_over(others, shared.gradients);
    }
    Products::sum_columns(first, others, shared.first[stage] + block * kHeadDim, first_chunk());
  }

  // Gradients of scores of the warp's rows that any warp laid down.
  __device__ __forceinline__ void load_gradients(typename Products::Weights& gradients, int block,
                                                 int warp) const {
    const int lane = ptx::lane_id();
#pragma unroll
    for (int depth = 0; depth < kBlock / 16; ++depth) {
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        const int row = warp * Tile::kWarpRows + row_tile * 16 + lane % 16;
        ptx::ldmatrix_x4(gradients[depth][row_tile],
                         ptx::shared_address(shared.scores) +
                             Columns::offset(row, block / 8 + depth * 2 + lane / 16));
      }
    }
  }

  // The warp's gradients of scores where all warps find them.
  __device__ __forceinline__ void lay_gradients(const typename Products::Weights& gradients,
                                                int block, int warp) const {
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = Tile::row_of(warp, row_tile, half);
#pragma unroll
        for (int pair = 0; pair < kBlock / 8; ++pair) {
          *reinterpret_cast<unsigned*>(
              reinterpret_cast<char*>(shared.scores) + Columns::offset(row, block / 8 + pair) +
              threadIdx.x % 4 * 4) = gradients[pair / 2][row_tile][pair % 2 * 2 + half];
        }
      }
    }
  }

  // dQ += dS K for the queries of a column tile, a part of them and of the channels to a warp.
  __device__ __forceinline__ void sum_queries(const typename Tile::Place& place) const {
    static_assert(!kSumsQueries || Queries::kChannels % QuerySums::kGroup == 0,
                  "warps share the channels of a column tile's queries");
    // With splits registers are too short to keep addresses from one tile to the next.
    const int lane = (kSplits ? ptx::lane_id() : threadIdx.x) % 32;
    const int warp = (kSplits ? ptx::computed_here(threadIdx.x) : threadIdx.x) / 32;
    const int first_query = Queries::first_query(warp),
              first_channel = Queries::first_channel(warp);
    const unsigned gradients = Queries::place_of_gradients(shared.scores, first_query, lane);
    const unsigned keys = Queries::place_of_keys(shared.rows[0], first_channel, lane);
    typename Queries::Sums sums = {};
    unsigned met = 0;  // a bit for each warp
#pragma unroll
    for (int i = 0; i < kWarps; ++i) met |= static_cast<unsigned>(shared.has_met[i]) << i;
    if (met == (1u << kWarps) - 1) {
#pragma unroll
      for (int depth = 0; depth < Tile::kRows / 16; ++depth) {
        Queries::multiply(sums, gradients, keys, depth);
      }
    } else {
#pragma unroll 1
      for (int depth = 0; depth < Tile::kRows / 16; ++depth) {
        if (met >> (depth / kRowTiles) & 1) Queries::multiply(sums, gradients, keys, depth);
      }
    }
    Queries::add(*this, sums, place, first_query, first_channel, lane);
  }

  // All is read that any warp reads of the rows, so their gradients take their place.
  __device__ __forceinline__ void store(const Sums& first, const Sums& second, int warp) const {
    if constexpr (kBeside && !kRowsAreQueries) {
      const auto& beside = static_cast<const BesideGradientParams&>(params);
      write_sums<Products>(*this, beside.key_sums, params.head_dim, first, params.scale, warp,
                           first_chunk());
      write_sums<Products>(*this, beside.value_sums, params.value_dim, second, 1.f, warp,
                           first_chunk());
      return;
    }
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = Tile::row_of(warp, row_tile, half);
        Products::lay_row(shared.rows[0], row, first[row_tile], half, params.scale, first_chunk());
        if constexpr (!kRowsAreQueries) {
          Products::lay_row(shared.rows[1], row, second[row_tile], half, 1.f, first_chunk());
        }
      }
    }
    if constexpr (kShares == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
    if constexpr (kBeside) {
      add_rows(*this, static_cast<const BesideGradientParams&>(params).window_dq, warp, share());
    }
    const Array& of_first = kRowsAreQueries ? params.dq : params.dk;
    write_rows(*this, of_first, shared.rows[0], warp, params.head_dim, share());
    if constexpr (!kRowsAreQueries) {
      write_rows(*this, params.dv, shared.rows[1], warp, params.value_dim, share());
    }
  }
};

}  // namespace cupyna
