// The fused backward: one block takes a tile of rows through the box of columns that they meet.
//
// Where rows are queries it gives dQ, where they are keys dK and dV. Each pass recomputes the
// weights from the log-sum-exp, so no gradient is summed by two blocks: no atomics, no workspace
// but two numbers for each query, and the same bits in every run.
//
//   per column tile (asynchronous copies run one tile ahead, two stages), kBlock columns at a time:
//     P  = exp(scale first first^T - lse)      rows of Q, K against columns of K, Q
//     dS = P (second second^T - delta)         rows of dO, V against columns of V, dO
//     rows are queries:  dQ += dS K
//     rows are keys:     dV += P^T dO,  dK += dS^T Q     (P and dS are held transposed)
//
// delta = sum(dO * O) - dlse of each query. The pass over queries computes it and leaves it, with
// the log-sum-exp, for the pass over keys. P and dS are rounded to the element type between the
// products and never leave the registers of the warp that owns their rows.
#pragma once

#include "fused_edges_sm80.cuh"
#include "fused_tile_sm80.cuh"
#include "products_sm80.cuh"

namespace cupyna {

template <typename T, Side kSide, int kHeadDim, int kRowTiles, int kWarps, int kColumns, int kBlock>
struct FusedGradientSm80 : FusedTileSm80<T, kSide, 2, kHeadDim, kRowTiles, kWarps, kColumns> {
  using Tile = FusedTileSm80<T, kSide, 2, kHeadDim, kRowTiles, kWarps, kColumns>;
  using Products = ProductsSm80<T, kHeadDim, kRowTiles, kBlock>;
  using Tile::head, Tile::shared;
  using Tile::kRowsAreQueries, Tile::kThreads, Tile::kWarpRows;
  using typename Tile::Shared;
  using typename Tile::WarpBox;
  using Scores = typename Products::Scores;
  using Sums = typename Products::Sums;

  // Elsewhere registers are too short for the addresses of biases.
  static constexpr bool kTakesBias = kRowTiles == 1 && kBlock == kColumns;

  const GradientParams& params;

  __device__ FusedGradientSm80(const GradientParams& params, Shared& shared)
      : Tile(params,
             kRowsAreQueries ? Operands{params.q, params.dout} : Operands{params.k, params.v},
             kRowsAreQueries ? Operands{params.k, params.v} : Operands{params.q, params.dout},
             params.statistics, shared),
        params(params) {}

  __device__ __forceinline__ void run() {
    Tile::prepare();
    Sums first = {};   // dQ or dK
    Sums second = {};  // dV
    const int warp = threadIdx.x / 32;
    if constexpr (kRowsAreQueries) lay_statistics(warp);
    for (int stage = 0, place = 0; Tile::arrive(stage, place); stage ^= 1) {
      const Coordinate origin = shared.walk[place].origin;
      const WarpBox box = shared.boxes[warp];
      if (Tile::meets(box.any, origin)) {
        const int query_head = kRowsAreQueries ? head : shared.walk[place].head;
        const bool is_edge = !Tile::is_within(box.all, origin);
#pragma unroll 1
        for (int block = 0; block < kColumns; block += kBlock) {
          step(first, second, origin, query_head, stage, block, warp, is_edge);
        }
      }
      place = Tile::after(place);
    }
    store(first, second, warp);
  }

 private:
  // Statistics of the warp's own queries, whose dO is in shared memory; 16 bytes of O per lane.
  __device__ __forceinline__ void lay_statistics(int warp) const {
    constexpr int kLanes = Tile::kChunks < 32 ? Tile::kChunks : 32;
    const int lane = threadIdx.x % 32, chunk = lane % kLanes;
    const T* out = static_cast<const T*>(params.out.data);
#pragma unroll 4
    for (int i = 0; i < kWarpRows; i += 32 / kLanes) {
      const int row = warp * kWarpRows + i + lane / kLanes;
      bool is_real;
      const Coordinate at = Tile::position_of(row, is_real);
      float delta = 0;
      if (chunk * 8 < params.value_dim) {
        uint4 mine = *reinterpret_cast<const uint4*>(out + Tile::row_offset(params.out, at, head) +
                                                     chunk * 8);
        uint4 given = *reinterpret_cast<const uint4*>(reinterpret_cast<char*>(shared.rows[1]) +
                                                      Tile::Rows::offset(row, chunk));
        const T* a = reinterpret_cast<const T*>(&mine);
        const T* b = reinterpret_cast<const T*>(&given);
#pragma unroll
        for (int element = 0; element < 8; ++element)
          delta += widen(a[element]) * widen(b[element]);
      }
#pragma unroll
      for (int step = kLanes / 2; step > 0; step /= 2) {
        delta += __shfl_xor_sync(0xffffffffu, delta, step);
      }
      if (chunk == 0) {
        if (params.dlse.data != nullptr) delta -= statistic(params.dlse, at);
        const Statistics found{statistic(params.lse, at) * kLog2E, delta};
        shared.statistics[row] = found;
        if (is_real) {
          static_cast<Statistics*>(
              params.statistics.data)[Tile::row_offset(params.statistics, at, head)] = found;
        }
      }
    }
    __syncwarp();
  }

  __device__ __forceinline__ float statistic(const Array& array, const Coordinate& at) const {
    return static_cast<const float*>(array.data)[Tile::row_offset(array, at, head)];
  }

  // What backward knows of the query of one of a thread's four accumulators.
  __device__ __forceinline__ Statistics statistics_of(int row_tile, int pair, int i,
                                                      int first_column, int warp) const {
    if constexpr (kRowsAreQueries) {
      return shared.statistics[Tile::row_of(warp, row_tile, i / 2)];
    } else {
      return shared.statistics[first_column + pair * 8 + threadIdx.x % 4 * 2 + i % 2];
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
    Products::multiply_rows(weights, firsts, [&](unsigned (&fragment)[4], int row_tile, int depth) {
      Products::load_row(fragment, shared.rows[0], warp, row_tile, depth);
    });
    const bool has_bias = kTakesBias && params.bias.data != nullptr;
    if (kTakesBias && has_bias) {
      add_bias<T>(*this, weights, origin, query_head, warp, params.scale_log2);
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
    if constexpr (!kRowsAreQueries) multiply(second, weights, seconds);
    Scores gradients = {};
    Products::multiply_rows(gradients, seconds,
                            [&](unsigned (&fragment)[4], int row_tile, int depth) {
                              Products::load_row(fragment, shared.rows[1], warp, row_tile, depth);
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
    multiply(first, weights, firsts);
  }

  // sums += weights columns, with the weights rounded to the element type.
  static __device__ __forceinline__ void multiply(Sums& sums, const Scores& weights,
                                                  const T* columns) {
#pragma unroll
    for (int depth = 0; depth < kBlock / 16; ++depth) {
      typename Products::Fragments packed;
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float (&four)[4] = weights[row_tile][2 * depth + i / 2];
          packed[row_tile][i] = pack<T>(four[i % 2 * 2], four[i % 2 * 2 + 1]);
        }
      }
      Products::multiply_columns(sums, packed, columns, depth);
    }
  }

  // A warp's rows are read by no one else, so their gradients take their place.
  __device__ __forceinline__ void store(const Sums& first, const Sums& second, int warp) const {
    __syncwarp();
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = Tile::row_of(warp, row_tile, half);
        Products::lay_row(shared.rows[0], row, first[row_tile], half, params.scale);
        if constexpr (!kRowsAreQueries) {
          Products::lay_row(shared.rows[1], row, second[row_tile], half, 1.f);
        }
      }
    }
    __syncwarp();
    const Array& of_first = kRowsAreQueries ? params.dq : params.dk;
    Tile::write_rows(of_first, shared.rows[0], warp, params.head_dim);
    if constexpr (!kRowsAreQueries) {
      Tile::write_rows(params.dv, shared.rows[1], warp, params.value_dim);
    }
  }
};

}  // namespace cupyna
