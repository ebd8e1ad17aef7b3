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

#include "../common/pack.cuh"
#include "../ptx/mma_sm80.cuh"
#include "../softmax/online.cuh"
#include "fused_tile_sm80.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kRowTiles, int kWarps, int kKeys>
struct FusedForwardSm80 : FusedTileSm80<T, kHeadDim, kRowTiles, kWarps, kKeys> {
  using Tile = FusedTileSm80<T, kHeadDim, kRowTiles, kWarps, kKeys>;
  using Tile::address, Tile::position_of, Tile::row_offset;
  using Tile::head, Tile::line, Tile::params, Tile::shared;
  using Tile::kChunks, Tile::kWarpRows;
  using typename Tile::Cursor;
  using typename Tile::Rows;
  using typename Tile::Shared;
  using typename Tile::WarpBox;

  // Fragments of all queries stay in registers where they leave enough for the sums.
  static constexpr bool kQueriesInRegisters = kRowTiles * kHeadDim < 128;

  __device__ FusedForwardSm80(const AttentionParams& params, Shared& shared)
      : Tile(params, shared) {}

  __device__ __forceinline__ void run() {
    Tile::prepare();
    Cursor ahead(*this);
    Tile::copy_keys(ahead, 0);
    ptx::copy_async_commit();

    float sums[kRowTiles][kHeadDim / 8][4] = {};
    OnlineRow softmax[kRowTiles][2];
    unsigned queries[kRowTiles][kQueriesInRegisters ? kHeadDim / 16 : 1][4];
    const int warp = threadIdx.x / 32;
    const float scale_log2 = params.scale * kLog2E;
    const bool has_bias = params.bias.data != nullptr;
    Cursor current(*this);
    for (int stage = 0; current.is_inside; stage ^= 1) {
      ptx::copy_async_wait<0>();
      __syncthreads();  // this stage has arrived, and all warps are done with the other
      ahead.advance(*this);
      if (ahead.is_inside) Tile::copy_keys(ahead, stage ^ 1);
      ptx::copy_async_commit();
      if (kQueriesInRegisters && current.is_first) load_queries(queries, warp);

      const WarpBox& box = shared.boxes[warp];
      if (current.meets(box.any, params)) {
        float scores[kRowTiles][kKeys / 8][4] = {};
        multiply_keys(scores, queries, stage, warp);
        if (has_bias) {
          add_bias(scores, current.origin, warp, scale_log2);
        } else if (!current.is_within(box.all, params)) {
          mask(scores, current.origin, warp);
        }
        unsigned weights[kRowTiles][kKeys / 16][4];
        update(scores, weights, sums, softmax, has_bias ? 1.f : scale_log2);
        multiply_values(sums, weights, stage);
      }
      current.advance(*this);
    }
    ptx::copy_async_wait<0>();
    store(sums, softmax, warp, has_bias ? kLn2 : params.scale);
  }

 private:
  static constexpr float kLog2E = 1.4426950408889634f;
  static constexpr float kLn2 = 0.6931471805599453f;

  // Fragments of 16 rows and 16 channels: lanes 0-15 name rows, the upper half the next 8 channels.
  __device__ __forceinline__ void load_query(unsigned (&fragment)[4], int warp, int row_tile,
                                             int depth) const {
    const int lane = threadIdx.x % 32;
    const int row = warp * kWarpRows + row_tile * 16 + lane % 16;
    ptx::ldmatrix_x4(fragment, address(shared.queries, row, depth * 2 + lane / 16));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      fragment[i] = (fragment[i] & params.query_keep) ^ params.query_flip;
    }
  }

  template <int kDepths>
  __device__ __forceinline__ void load_queries(unsigned (&queries)[kRowTiles][kDepths][4],
                                               int warp) const {
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int depth = 0; depth < kDepths; ++depth) {
        load_query(queries[row_tile][depth], warp, row_tile, depth);
      }
    }
  }

  template <int kDepths>
  __device__ __forceinline__ void multiply_keys(float (&scores)[kRowTiles][kKeys / 8][4],
                                                const unsigned (&queries)[kRowTiles][kDepths][4],
                                                int stage, int warp) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int depth = 0; depth < kHeadDim / 16; ++depth) {
      unsigned rows[kRowTiles][4];
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        if constexpr (kQueriesInRegisters) {
#pragma unroll
          for (int i = 0; i < 4; ++i) rows[row_tile][i] = queries[row_tile][depth][i];
        } else {
          load_query(rows[row_tile], warp, row_tile, depth);
        }
      }
#pragma unroll
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        // Keys 0-7 and 8-15 of the pair, each with the lower and the upper 8 channels.
        unsigned keys[4];
        const int key = pair * 16 + lane / 16 * 8 + lane % 8;
        ptx::ldmatrix_x4(keys, address(shared.keys[stage], key, depth * 2 + lane / 8 % 2));
#pragma unroll
        for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
          ptx::mma_m16n8k16<T>(scores[row_tile][2 * pair], rows[row_tile], keys[0], keys[1]);
          ptx::mma_m16n8k16<T>(scores[row_tile][2 * pair + 1], rows[row_tile], keys[2], keys[3]);
        }
      }
    }
  }

  // Row of the tile that element `half` (0 or 1) of a thread's fragments belongs to.
  static __device__ __forceinline__ int row_of(int warp, int row_tile, int half) {
    return warp * kWarpRows + row_tile * 16 + half * 8 + threadIdx.x % 32 / 4;
  }

  __device__ __forceinline__ uint2 columns_of(int pair) const {
    return *reinterpret_cast<const uint2*>(&shared.columns[pair * 8 + threadIdx.x % 4 * 2]);
  }

  __device__ __forceinline__ void mask(float (&scores)[kRowTiles][kKeys / 8][4],
                                       const Coordinate& origin, int warp) const {
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
      const PackedWindow upper(shared.windows[row_of(warp, row_tile, 0)], origin);
      const PackedWindow lower(shared.windows[row_of(warp, row_tile, 1)], origin);
#pragma unroll
      for (int pair = 0; pair < kKeys / 8; ++pair) {
        const uint2 columns = columns_of(pair);
        float (&four)[4] = scores[row_tile][pair];
        four[0] = upper.contains(columns.x) ? four[0] : -infinity();
        four[1] = upper.contains(columns.y) ? four[1] : -infinity();
        four[2] = lower.contains(columns.x) ? four[2] : -infinity();
        four[3] = lower.contains(columns.y) ? four[3] : -infinity();
      }
    }
  }

  // Scores times scale plus bias, in powers of two; -inf where there is no key.
  __device__ __forceinline__ void add_bias(float (&scores)[kRowTiles][kKeys / 8][4],
                                           const Coordinate& origin, int warp,
                                           float scale_log2) const {
    const T* biases = static_cast<const T*>(params.bias.data) + head * params.bias.head;
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = row_of(warp, row_tile, half);
        const PackedWindow window(shared.windows[row], origin);
        bool is_real;
        const Coordinate query = position_of(row, is_real);
        const int x = origin.x - query.x + line[0].kernel_size - 1;
        const int y = origin.y - query.y + line[1].kernel_size - 1;
        const int z = origin.z - query.z + line[2].kernel_size - 1;
#pragma unroll
        for (int pair = 0; pair < kKeys / 8; ++pair) {
          const uint2 columns = columns_of(pair);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const unsigned column = i == 0 ? columns.x : columns.y;
            float& score = scores[row_tile][pair][2 * half + i];
            if (!window.contains(column)) {
              score = -infinity();
              continue;
            }
            const Coordinate at = unpack_fields(column);
            const T bias =
                biases[(x + at.x) * params.bias.axis[0] + (y + at.y) * params.bias.axis[1] +
                       (z + at.z) * params.bias.axis[2]];
            score = score * scale_log2 + widen(bias) * kLog2E;
          }
        }
      }
    }
  }

  // One step of the online softmax: scores become weights, packed as fragments of the next product.
  __device__ __forceinline__ void update(float (&scores)[kRowTiles][kKeys / 8][4],
                                         unsigned (&weights)[kRowTiles][kKeys / 16][4],
                                         float (&sums)[kRowTiles][kHeadDim / 8][4],
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
          float (&four)[4] = scores[row_tile][pair];
          const float left = ptx::exp2_approx(four[2 * half] * scale_log2 - shift);
          const float right = ptx::exp2_approx(four[2 * half + 1] * scale_log2 - shift);
          row.sum += left + right;
          weights[row_tile][pair / 2][pair % 2 * 2 + half] = pack<T>(left, right);
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

  __device__ __forceinline__ void multiply_values(
      float (&sums)[kRowTiles][kHeadDim / 8][4],
      const unsigned (&weights)[kRowTiles][kKeys / 16][4], int stage) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int depth = 0; depth < kKeys / 16; ++depth) {
#pragma unroll
      for (int pair = 0; pair < kHeadDim / 16; ++pair) {
        unsigned values[4];
        const int key = depth * 16 + lane % 16;
        ptx::ldmatrix_x4_trans(values, address(shared.values[stage], key, pair * 2 + lane / 16));
#pragma unroll
        for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
          ptx::mma_m16n8k16<T>(sums[row_tile][2 * pair], weights[row_tile][depth], values[0],
                               values[1]);
          ptx::mma_m16n8k16<T>(sums[row_tile][2 * pair + 1], weights[row_tile][depth], values[2],
                               values[3]);
        }
      }
    }
  }

  // A warp's rows of Q are read by no one else, so its rows of O take their place.
  __device__ __forceinline__ void store(const float (&sums)[kRowTiles][kHeadDim / 8][4],
                                        const OnlineRow (&softmax)[kRowTiles][2], int warp,
                                        float scale) const {
    const int lane = threadIdx.x % 32;
    __syncwarp();  // every lane has read its part of Q
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const OnlineRow& softmax_row = softmax[row_tile][half];
        const int row = row_of(warp, row_tile, half);
        const float sum = sum_over_quad(softmax_row.sum);
        const float factor = 1.f / sum;
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          const unsigned both = pack<T>(sums[row_tile][n][2 * half] * factor,
                                        sums[row_tile][n][2 * half + 1] * factor);
          *reinterpret_cast<unsigned*>(reinterpret_cast<char*>(shared.queries) +
                                       Rows::offset(row, n) + lane % 4 * 4) = both;
        }
        bool is_real;
        const Coordinate at = position_of(row, is_real);
        if (params.lse.data != nullptr && lane % 4 == 0 && is_real) {
          static_cast<float*>(params.lse.data)[row_offset(params.lse, at, head)] =
              softmax_row.largest * scale + logf(sum);
        }
      }
    }
    __syncwarp();
    T* out = static_cast<T*>(params.out.data);
    for (int i = lane; i < kWarpRows * kChunks; i += 32) {
      const int row = warp * kWarpRows + i / kChunks, chunk = i % kChunks;
      bool is_real;
      const Coordinate at = position_of(row, is_real);
      if (is_real && chunk * 8 < params.value_dim) {
        *reinterpret_cast<uint4*>(out + row_offset(params.out, at, head) + chunk * 8) =
            *reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(shared.queries) +
                                            Rows::offset(row, chunk));
      }
    }
  }
};

}  // namespace cupyna
