// The fused forward: one block takes a tile of queries through the key box of its windows.
//
//   Q tile  -> shared memory -> fragments
//   per key tile (asynchronous copies run one tile ahead, two stages):
//     S = Q K^T (mma.sync)  -> mask, if the tile is an edge for this warp's rows
//     online softmax        -> P, rounded to the element type, stays in registers
//     O = O * factor + P V  (mma.sync)
//   O / sum -> shared memory (over Q) -> global memory, 16 bytes at a time
//
// A warp owns 16 kRowTiles consecutive rows of the tile, skips key tiles that none of them sees,
// and masks only those that not all of them see whole.
#pragma once

#include "fused_edges_sm80.cuh"
#include "fused_tile_sm80.cuh"
#include "products_sm80.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kRowTiles, int kWarps, int kKeys>
struct FusedForwardSm80 : FusedTileSm80<T, Side::kQuery, 1, kHeadDim, kRowTiles, kWarps, kKeys> {
  using Tile = FusedTileSm80<T, Side::kQuery, 1, kHeadDim, kRowTiles, kWarps, kKeys>;
  using Products = ProductsSm80<T, kHeadDim, kRowTiles, kKeys>;
  using Tile::head, Tile::params, Tile::shared;
  using Scores = typename Products::Scores;
  using Sums = typename Products::Sums;
  using Weights = typename Products::Weights;
  using typename Tile::Cursor;
  using typename Tile::Shared;
  using typename Tile::WarpBox;

  // Fragments of all queries stay in registers where they leave enough for the sums.
  static constexpr bool kQueriesInRegisters = kRowTiles * kHeadDim < 128;
  using Queries = unsigned[kRowTiles][kQueriesInRegisters ? Products::kDepths : 1][4];

  __device__ FusedForwardSm80(const AttentionParams& params, Shared& shared)
      : Tile(params, Operands{params.q, params.out}, Operands{params.k, params.v}, shared) {}

  __device__ __forceinline__ void run() {
    Tile::place();
    __syncthreads();
    Tile::copy_rows(shared.rows[0], params.q, params.head_dim);
    Tile::lay_tables();
    __syncthreads();
    Cursor ahead(*this);
    Tile::copy_columns(ahead, 0);
    ptx::copy_async_commit();

    Sums sums = {};
    OnlineRow softmax[kRowTiles][2];
    Queries queries;
    const int warp = threadIdx.x / 32;
    const float scale_log2 = params.scale * kLog2E;
    const bool has_bias = params.bias.data != nullptr;
    Cursor current(*this);
    for (int stage = 0; current.is_inside; stage ^= 1) {
      ptx::copy_async_wait<0>();
      __syncthreads();  // this stage has arrived, and all warps are done with the other
      ahead.advance(*this);
      if (ahead.is_inside) Tile::copy_columns(ahead, stage ^ 1);
      ptx::copy_async_commit();
      if (kQueriesInRegisters && current.is_first) load_queries(queries, warp);

      const WarpBox& box = shared.boxes[warp];
      if (current.meets(box.any, params)) {
        Scores scores = {};
        multiply_keys(scores, queries, stage, warp);
        if (has_bias) {
          add_bias<T>(*this, scores, current.origin, head, warp, scale_log2);
        } else if (!current.is_within(box.all, params)) {
          mask_scores(*this, scores, current.origin, warp, -infinity());
        }
        Weights weights;
        update(scores, weights, sums, softmax, has_bias ? 1.f : scale_log2);
        Products::multiply_columns(sums, weights, shared.second[stage]);
      }
      current.advance(*this);
    }
    ptx::copy_async_wait<0>();
    store(sums, softmax, warp, has_bias ? kLn2 : params.scale);
  }

 private:
  __device__ __forceinline__ void load_query(unsigned (&fragment)[4], int warp, int row_tile,
                                             int depth) const {
    Products::load_row(fragment, shared.rows[0], warp, row_tile, depth);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      fragment[i] = (fragment[i] & params.query_keep) ^ params.query_flip;
    }
  }

  __device__ __forceinline__ void load_queries(Queries& queries, int warp) const {
    if constexpr (kQueriesInRegisters) {
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
        for (int depth = 0; depth < Products::kDepths; ++depth) {
          load_query(queries[row_tile][depth], warp, row_tile, depth);
        }
      }
    }
  }

  __device__ __forceinline__ void multiply_keys(Scores& scores, const Queries& queries, int stage,
                                                int warp) const {
    Products::multiply_rows(scores, shared.first[stage],
                            [&](unsigned (&fragment)[4], int row_tile, int depth) {
                              if constexpr (kQueriesInRegisters) {
#pragma unroll
                                for (int i = 0; i < 4; ++i) {
                                  fragment[i] = queries[row_tile][depth][i];
                                }
                              } else {
                                load_query(fragment, warp, row_tile, depth);
                              }
                            });
  }

  // One step of the online softmax: scores become weights, packed as fragments of the next product.
  __device__ __forceinline__ void update(const Scores& scores, Weights& weights, Sums& sums,
                                         OnlineRow (&softmax)[kRowTiles][2],
                                         float scale_log2) const {
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
      float factors[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        OnlineRow& row = softmax[row_tile][half];
        float largest = -infinity();
#pragma unroll
        for (int pair = 0; pair < kKeys / 8; ++pair) {
          largest = fmaxf(largest, fmaxf(scores[row_tile][pair][2 * half],
                                         scores[row_tile][pair][2 * half + 1]));
        }
        factors[half] = row.raise(max_over_quad(largest), scale_log2);
        const float shift = row.shift(scale_log2);
#pragma unroll
        for (int pair = 0; pair < kKeys / 8; ++pair) {
          const float (&four)[4] = scores[row_tile][pair];
          const float left = ptx::exp2_approx(four[2 * half] * scale_log2 - shift);
          const float right = ptx::exp2_approx(four[2 * half + 1] * scale_log2 - shift);
          row.sum += left + right;
          Products::pack_weights(weights, row_tile, pair, half, left, right);
        }
      }
      // After the first tiles no row's maximum moves any more.
      if (__any_sync(0xffffffffu, factors[0] != 1.f || factors[1] != 1.f)) {
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[row_tile][n][i] *= factors[i / 2];
        }
      }
    }
  }

  // A warp's rows of Q are read by no one else, so its rows of O take their place.
  __device__ __forceinline__ void store(const Sums& sums, const OnlineRow (&softmax)[kRowTiles][2],
                                        int warp, float scale) const {
    __syncwarp();  // every lane has read its part of Q
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const OnlineRow& softmax_row = softmax[row_tile][half];
        const int row = Tile::row_of(warp, row_tile, half);
        const float sum = sum_over_quad(softmax_row.sum);
        Products::lay_row(shared.rows[0], row, sums[row_tile], half, 1.f / sum);
        bool is_real;
        const Coordinate at = Tile::position_of(row, is_real);
        if (params.lse.data != nullptr && threadIdx.x % 4 == 0 && is_real) {
          static_cast<float*>(params.lse.data)[Tile::row_offset(params.lse, at, head)] =
              softmax_row.largest * scale + logf(sum);
        }
      }
    }
    __syncwarp();
    Tile::write_rows(params.out, shared.rows[0], warp, params.value_dim);
  }
};

}  // namespace cupyna
