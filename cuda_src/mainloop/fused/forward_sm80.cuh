// The fused forward: one block takes a tile of queries through the key box of its windows.
//
//   Q tile  -> shared memory -> fragments
//   per key tile (asynchronous copies run one tile ahead, two stages), kBlock keys at a time:
//     S = Q K^T (mma.sync)  -> mask, if the tile is an edge for this warp's rows
//     online softmax        -> P, rounded as the products want it, stays in registers
//     O = O * factor + P V  (mma.sync)
//   the same without a mask for keys that every query sees, if there are any
//   O / sum -> shared memory (over Q) -> global memory, 16 bytes at a time
//
// A warp owns 16 kRowTiles consecutive rows of the tile, skips key tiles that none of them sees,
// and masks only those that not all of them see whole. Where kShares warps have the same rows, each
// computes all weights and sums a share of the channels.
#pragma once

#include "additional_sm80.cuh"
#include "edges_sm80.cuh"
#include "tile_sm80.cuh"
#include "products_sm80.cuh"

namespace cupyna {

template <typename T, Flavor kFlavor, int kHeadDim, int kRowTiles, int kWarps, int kKeys,
          int kBlock, int kShares>
struct FusedForwardSm80
    : FusedTileSm80<T, Side::kQuery, 1, kHeadDim, kRowTiles, kWarps, kKeys, kShares> {
  using Tile = FusedTileSm80<T, Side::kQuery, 1, kHeadDim, kRowTiles, kWarps, kKeys, kShares>;
  using Products = ProductsSm80<T, kFlavor, kHeadDim, kRowTiles, kBlock, kHeadDim / kShares>;
  using Tile::head, Tile::params, Tile::shared;
  using Scores = typename Products::Scores;
  using Sums = typename Products::Sums;
  using typename Tile::Shared;
  using typename Tile::WarpBox;

  // Fragments of all queries stay in registers where they leave enough for the sums.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr int kQueryBytes = kWarps < 4 ? 128 : 256;  // of a row in each row tile
#else
  static constexpr int kQueryBytes = 256;
#endif
  static constexpr bool kQueriesInRegisters = kRowTiles * kHeadDim * sizeof(T) < kQueryBytes;
  static_assert(kShares == 1 || !kQueriesInRegisters, "queries are read after their sign is set");
  using Queries = unsigned[kRowTiles][kQueriesInRegisters ? Products::kDepths : 1][4];

  // Registers of two row tiles are too short for the addresses of biases.
  static constexpr bool kTakesBias = kRowTiles == 1 && kBlock == kKeys;

  // The same for keys beside the window.
  static constexpr bool kTakesMore = kTakesBias && kHeadDim <= 128;

  const ForwardParams& launch;

  __device__ FusedForwardSm80(const ForwardParams& params, Shared& shared)
      : Tile(params, Operands{params.q, params.out}, Operands{params.k, params.v}, nullptr, shared),
        launch(params) {}

  __device__ __forceinline__ void run() {
    Tile::prepare();
    Sums sums = {};
    OnlineRow softmax[kRowTiles][2];
    Queries queries;
    const int warp = kShares == 1 ? threadIdx.x / 32 : threadIdx.x / 32 % kWarps;
    const bool has_bias = kTakesBias && params.bias.data != nullptr;
    sign_queries(warp);
    load_queries(queries, warp);
    for (int stage = 0, place = 0; Tile::arrive(place); stage ^= 1) {
      Tile::copy_next(stage, place);
      Tile::continue_walk(place);
      const Coordinate origin = shared.walk[place].origin;
      const WarpBox box = shared.boxes[warp];
      if (Tile::meets(box.any, origin)) {
        const bool is_edge = !Tile::is_within(box.all, origin);
#pragma unroll 1
        for (int block = 0; block < kKeys; block += kBlock) {
          const T* keys = shared.first[stage] + block * kHeadDim;
          const T* values = shared.second[stage] + block * kHeadDim;
          Scores scores = {};
          multiply_keys(scores, queries, keys, warp);
          if (kTakesBias && has_bias) {
            add_bias<T>(*this, scores, origin, head, warp, params.scale_log2);
          } else if (is_edge) {
            mask_scores(*this, scores, origin, warp, -infinity(), block);
          }
          const float scale_log2 = has_bias ? 1.f : params.scale_log2;
          raise(scores, sums, softmax, scale_log2);
          multiply_values(sums, scores, softmax, values, scale_log2);
        }
      }
      place = Tile::after(place);
    }
    // Tiles of the window have left both stages.
    for (int begin = 0; kTakesMore && begin < launch.more_tokens; begin += kKeys) {
      copy_additional(*this, launch, begin, shared.first[0], shared.second[0]);
      ptx::copy_async_commit();
      ptx::copy_async_wait<0>();
      __syncthreads();
      Scores scores = {};
      multiply_keys(scores, queries, shared.first[0], warp);
      score_additional(scores, launch.more_tokens - begin, has_bias ? params.scale_log2 : 1.f);
      const float scale_log2 = has_bias ? 1.f : params.scale_log2;
      raise(scores, sums, softmax, scale_log2);
      multiply_values(sums, scores, softmax, shared.second[0], scale_log2);
      __syncthreads();
    }
    store(sums, softmax, warp, has_bias ? kLn2 : params.scale);
  }

 private:
  // Gives the warp's own queries the sign of the scale, or clears them, where the scale is not
  // positive: the running maximum needs a positive one.
  __device__ __forceinline__ void sign_queries(int warp) const {
    // With shares the first one does it; their first tile begins with a barrier.
    if (kShares > 1 && share() > 0) return;
    if (params.query_keep == 0xffffffffu && params.query_flip == 0) return;
    constexpr int kWords = Tile::kWarpRows * kHeadDim * sizeof(T) / 4;
    unsigned* words = reinterpret_cast<unsigned*>(shared.rows[0]) + warp * kWords;
    for (int i = threadIdx.x % 32; i < kWords; i += 32) {
      words[i] = (words[i] & params.query_keep) ^ params.query_flip;
    }
    __syncwarp();
  }

  __device__ __forceinline__ void load_queries(Queries& queries, int warp) const {
    if constexpr (kQueriesInRegisters) {
      const unsigned rows = Products::place_of_rows(shared.rows[0], warp);
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
        for (int depth = 0; depth < Products::kDepths; ++depth) {
          Products::load_row(queries[row_tile][depth], rows, row_tile, depth);
        }
      }
    }
  }

  __device__ __forceinline__ void multiply_keys(Scores& scores, const Queries& queries,
                                                const T* keys, int warp) const {
    const unsigned rows = Products::place_of_rows(shared.rows[0], warp);
    Products::multiply_rows(scores, keys, [&](unsigned (&fragment)[4], int row_tile, int depth) {
      if constexpr (kQueriesInRegisters) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          fragment[i] = queries[row_tile][depth][i];
        }
      } else {
        Products::load_row(fragment, rows, row_tile, depth);
      }
    });
  }

  // Takes the largest scores of a tile, and brings what is summed so far to their scale.
  __device__ __forceinline__ void raise(const Scores& scores, Sums& sums,
                                        OnlineRow (&softmax)[kRowTiles][2],
                                        float scale_log2) const {
    // What leads to the branch is a chain that little hides, so one for all rows but where
    // registers are short.
    constexpr int kTogether = kRowTiles * kHeadDim / kShares < 256 ? kRowTiles : 1;
#pragma unroll
    for (int begin = 0; begin < kRowTiles; begin += kTogether) {
      float factors[kTogether][2];
      bool is_raised = false;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float largest = largest_of(scores[begin + i], half);
          factors[i][half] = softmax[begin + i][half].raise(max_over_quad(largest), scale_log2);
          is_raised |= factors[i][half] != 1.f;
        }
      }
      // After the first tiles no row's maximum moves any more.
      if (__any_sync(0xffffffffu, is_raised)) {
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
#pragma unroll
          for (int n = 0; n < kHeadDim / kShares / 8; ++n) {
#pragma unroll
            for (int j = 0; j < 4; ++j) sums[begin + i][n][j] *= factors[i][j / 2];
          }
        }
      }
    }
  }

  static __device__ __forceinline__ float largest_of(const float (&scores)[kBlock / 8][4],
                                                     int half) {
    float largest = -infinity();
#pragma unroll
    for (int pair = 0; pair < kBlock / 8; ++pair) {
      const float (&four)[4] = scores[pair];
      largest = fmaxf(largest, fmaxf(four[2 * half], four[2 * half + 1]));
    }
    return largest;
  }

  // Scores become weights just before the product in which they meet the values.
  __device__ __forceinline__ void multiply_values(Sums& sums, Scores& scores,
                                                  OnlineRow (&softmax)[kRowTiles][2],
                                                  const T* values, float scale_log2) const {
    constexpr int kDepth = Products::kWeightDepth;
#pragma unroll
    for (int depth = 0; depth < kBlock / kDepth; ++depth) {
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
        for (int pair = depth * kDepth / 8; pair < (depth + 1) * kDepth / 8; ++pair) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            OnlineRow& row = softmax[row_tile][half];
            float& left = scores[row_tile][pair][2 * half];
            float& right = scores[row_tile][pair][2 * half + 1];
            const float shift = row.shift(scale_log2);
            left = ptx::exp2_approx(left * scale_log2 - shift);
            right = ptx::exp2_approx(right * scale_log2 - shift);
            row.sum += left + right;
          }
        }
      }
      if constexpr (!Products::kAddsTiles) {
        typename Products::Fragment weights[kRowTiles];
        Products::round(weights, scores, depth);
        Products::multiply_columns(sums, weights, values, depth, first_chunk());
      }
    }
    if constexpr (Products::kAddsTiles) {
      typename Products::Weights weights;
      Products::round(weights, scores);
      Products::sum_columns(sums, weights, values, first_chunk());
    }
  }

  // A warp's rows of Q are read by no one else, so its rows of O take their place.
  __device__ __forceinline__ void store(const Sums& sums, const OnlineRow (&softmax)[kRowTiles][2],
                                        int warp, float scale) const {
    meet();  // every lane has read its part of Q
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const OnlineRow& softmax_row = softmax[row_tile][half];
        const int row = Tile::row_of(warp, row_tile, half);
        const float sum = sum_over_quad(softmax_row.sum);
        Products::lay_row(shared.rows[0], row, sums[row_tile], half, 1.f / sum, first_chunk());
        bool is_real;
        const Coordinate at = Tile::position_of(row, is_real);
        if (params.lse.data != nullptr && threadIdx.x % 4 == 0 && is_real) {
          static_cast<float*>(params.lse.data)[Tile::row_offset(params.lse, at, head)] =
              softmax_row.largest * scale + logf(sum);
        }
      }
    }
    meet();
    write_rows(*this, params.out, shared.rows[0], warp, params.value_dim, share());
  }

  // All warps with the same rows.
  static __device__ __forceinline__ void meet() {
    if constexpr (kShares == 1) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  }

  // Which of its rows' channels a warp sums.
  static __device__ __forceinline__ int share() {
    return kShares == 1 ? 0 : threadIdx.x / 32 / kWarps;
  }
  static __device__ __forceinline__ int first_chunk() {
    return share() * (kHeadDim / kShares / Tile::kPerChunk);
  }
};

}  // namespace cupyna
