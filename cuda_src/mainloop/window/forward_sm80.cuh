// The fused forward for small windows: a block takes a tile of queries whose whole key box lies in
// shared memory, and each warp takes 16 queries at a time with the keys of their own box.
//
//   box of K and V -> shared memory, one barrier
//   per warp tile: Q -> fragments, the next tile's Q is under way
//     kSlots keys at a time:
//       S = Q K^T, rows of K gathered by ldmatrix -> mask by bits -> online softmax
//       O = O * factor + P V, rows of V gathered from the same places
//     O / sum -> shared memory (over Q) -> global memory
//
// Query heads that share keys are more warp tiles of the same block.
#pragma once

#include "../../common/pack.cuh"
#include "../../ptx/mma_sm80.cuh"
#include "../../softmax/online.cuh"
#include "walk_sm80.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kSlots>
struct WindowForwardSm80 : WindowWalkSm80<T, kHeadDim, kSlots, Side::kQuery, 1, 2> {
  using Walk = WindowWalkSm80<T, kHeadDim, kSlots, Side::kQuery, 1, 2>;
  using Tile = typename Walk::Tile;
  using Tile::kChunks, Tile::kRowBytes, Tile::kRows;
  using Tile::lane, Tile::params, Tile::window;
  using typename Tile::Bounds;
  using typename Tile::WarpTile;
  using typename Tile::Work;
  using Scores = float[kSlots / 8][4];
  using Sums = float[kHeadDim / 8][4];

  // Fragments of the queries stay in registers where they leave enough for the sums.
  static constexpr int kDepths = kHeadDim / 16;
  static constexpr bool kQueriesInRegisters = kHeadDim <= 64;

  const Array& lse;

  __device__ WindowForwardSm80(const WindowParams& given, unsigned char* memory)
      : Walk(
            given.grid, given.attention,
            {given.attention.q, given.attention.out, given.attention.k, given.attention.v, nullptr},
            memory),
        lse(given.attention.lse) {}

  __device__ __forceinline__ void run() {
    Walk::run([this](const Work& work, const WarpTile& tile, int side, unsigned char* rows, auto) {
      if (tile.head >= 0) attend(work, tile, side, rows);
    });
  }

 private:
  __device__ __forceinline__ void load_query(unsigned (&fragment)[4], const unsigned char* rows,
                                             int depth) const {
    ptx::ldmatrix_x4(
        fragment, ptx::shared_address(rows) + lane % 16 * kRowBytes + lane / 16 * 16 + depth * 32);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      fragment[i] = (fragment[i] & params.query_keep) ^ params.query_flip;
    }
  }

  __device__ __forceinline__ void attend(const Work& work, const WarpTile& tile, int side,
                                         unsigned char* rows) const {
    if (tile.head < 0) return;
    unsigned queries[kQueriesInRegisters ? kDepths : 1][4];
    if constexpr (kQueriesInRegisters) {
#pragma unroll
      for (int depth = 0; depth < kDepths; ++depth) load_query(queries[depth], rows, depth);
    }
    // Keys as the product takes them: 0-7 and 8-15, each with the lower and the upper 8 channels.
    // Values: both eights of keys with the lower 8 channels, then with the upper.
    const unsigned corner = ptx::shared_address(Tile::tokens()) + tile.columns;
    const unsigned keys = corner + lane / 8 % 2 * 16;
    const unsigned values = corner + kHeadDim * 2 + lane / 16 * 16;
    const typename Tile::Row* of_rows = Tile::fixed().rows + lane / 4;
    const Bounds bounds[2] = {Tile::bounds_at(side, tile.corner + of_rows[0].field, {0, 0, 0}),
                              Tile::bounds_at(side, tile.corner + of_rows[8].field, {0, 0, 0})};

    Sums sums = {};
    OnlineRow softmax[2];
#pragma unroll 1
    for (int block = 0; block < window.blocks_of_slots; ++block) {
      const int* offsets = Tile::offsets() + block * kSlots;
      unsigned places[kSlots / 16];
#pragma unroll
      for (int i = 0; i < kSlots / 16; ++i) {
        places[i] = keys + offsets[i * 16 + lane / 16 * 8 + lane % 8];
      }
      Scores scores = {};
#pragma unroll
      for (int depth = 0; depth < kDepths; ++depth) {
        unsigned query[4];
        if constexpr (kQueriesInRegisters) {
#pragma unroll
          for (int i = 0; i < 4; ++i) query[i] = queries[depth][i];
        } else {
          load_query(query, rows, depth);
        }
#pragma unroll
        for (int i = 0; i < kSlots / 16; ++i) {
          unsigned key[4];
          ptx::ldmatrix_x4(key, places[i] + depth * 32);
          ptx::mma_m16n8k16<T>(scores[2 * i], query, key[0], key[1]);
          ptx::mma_m16n8k16<T>(scores[2 * i + 1], query, key[2], key[3]);
        }
      }
      const unsigned* below = Tile::below() + block * 4 + lane % 4;
      const unsigned held[2] = {bounds[0].bits(below), bounds[1].bits(below)};
#pragma unroll
      for (int n = 0; n < kSlots / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          scores[n][i] = held[i / 2] & 1u << (2 * n + i % 2) ? scores[n][i] : -infinity();
        }
      }
      raise(scores, sums, softmax, block > 0);
      multiply_values(sums, scores, softmax, values, offsets);
    }
    store(work, tile, rows, sums, softmax);
  }

  // Takes the largest scores of a block, and brings what is summed so far to their scale.
  __device__ __forceinline__ void raise(const Scores& scores, Sums& sums, OnlineRow (&softmax)[2],
                                        bool has_sums) const {
    float factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -infinity();
#pragma unroll
      for (int n = 0; n < kSlots / 8; ++n) {
        largest = fmaxf(largest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      factors[half] = softmax[half].raise(max_over_quad(largest), params.scale_log2);
    }
    if (has_sums && __any_sync(0xffffffffu, factors[0] != 1.f || factors[1] != 1.f)) {
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[n][i] *= factors[i / 2];
      }
    }
  }

  // Scores become weights just before the product in which they meet the values.
  __device__ __forceinline__ void multiply_values(Sums& sums, Scores& scores,
                                                  OnlineRow (&softmax)[2], unsigned first,
                                                  const int* offsets) const {
    const float scale_log2 = params.scale_log2;
    const float shift[2] = {softmax[0].shift(scale_log2), softmax[1].shift(scale_log2)};
#pragma unroll
    for (int depth = 0; depth < kSlots / 16; ++depth) {
      unsigned weights[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float (&four)[4] = scores[2 * depth + i / 2];
        const int half = i % 2;
        const float left = ptx::exp2_approx(four[2 * half] * scale_log2 - shift[half]);
        const float right = ptx::exp2_approx(four[2 * half + 1] * scale_log2 - shift[half]);
        softmax[half].sum += left + right;
        weights[i] = pack<T>(left, right);
      }
      const unsigned place = first + offsets[depth * 16 + lane % 16];
#pragma unroll
      for (int pair = 0; pair < kHeadDim / 16; ++pair) {
        unsigned values[4];
        ptx::ldmatrix_x4_trans(values, place + pair * 32);
        ptx::mma_m16n8k16<T>(sums[2 * pair], weights, values[0], values[1]);
        ptx::mma_m16n8k16<T>(sums[2 * pair + 1], weights, values[2], values[3]);
      }
    }
  }

  __device__ __forceinline__ void store(const Work& work, const WarpTile& tile, unsigned char* rows,
                                        const Sums& sums, const OnlineRow (&softmax)[2]) const {
    __syncwarp();  // every lane has read its part of Q
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_over_quad(softmax[half].sum);
      const float factor = 1.f / sum;
      unsigned* row = reinterpret_cast<unsigned*>(rows + (lane / 4 + 8 * half) * kRowBytes);
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        row[4 * n + lane % 4] = pack<T>(sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
      }
      if (lse.data != nullptr && lane % 4 == 0) {
        const typename Tile::Row to = Tile::fixed().rows[lane / 4 + 8 * half];
        if (Tile::is_not_past(to, tile.last)) {
          const Coordinate at = unpack_fields(to.field), first = unpack_fields(tile.corner);
          const Coordinate query{work.own[0].begin + first.x + at.x,
                                 work.own[1].begin + first.y + at.y,
                                 work.own[2].begin + first.z + at.z};
          static_cast<float*>(lse.data)[Tile::offset_of(lse, work, query) + tile.head * lse.head] =
              softmax[half].largest * params.scale + logf(sum);
        }
      }
    }
    __syncwarp();
    write_outputs(rows, tile);
    __syncwarp();  // before the next queries arrive here
  }

  __device__ __forceinline__ void write_outputs(const unsigned char* source,
                                                const WarpTile& tile) const {
    T* target = static_cast<T*>(params.out.data) + tile.second;
    const unsigned last = tile.last;
#pragma unroll
    for (int i = lane; i < kRows * kChunks; i += 32) {
      const int chunk = i % kChunks;
      const typename Tile::Row to = Tile::fixed().rows[i / kChunks];
      if (chunk * 8 < params.value_dim && Tile::is_not_past(to, last)) {
        *reinterpret_cast<uint4*>(target + to.second + chunk * 8) =
            *reinterpret_cast<const uint4*>(source + i / kChunks * kRowBytes + chunk * 16);
      }
    }
  }
};

}  // namespace cupyna
