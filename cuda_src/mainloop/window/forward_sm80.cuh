// The fused forward for small windows: a block takes a tile of queries whose whole key box lies in
// shared memory, and each warp takes 16 queries at a time with the keys of their own box.
//
//   box of K and V -> shared memory, one barrier
//   per warp tile: Q -> fragments, the next tile's Q is under way
//     kSlots keys at a time:
//       S = Q K^T, rows of K gathered by ldmatrix -> mask by bits
//       P = exp(S - shift), the shift raised only where a weight would pass 2^8
//       O += P V, rows of V gathered from the same places
//     O / sum -> shared memory (over Q) -> global memory
//
// Where the lengths of a warp box's lines divide 16, what rows see of them repeats: products start
// from zeros and minus infinities, and bits mask only blocks with lines that some row does not see.
//
// Query heads that share keys are more warp tiles of the same block.
#pragma once

#include "../../softmax/lazy.cuh"
#include "line_ends.cuh"
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
  using Ends = LineEnds<2>;

  static constexpr unsigned kAll = (1ull << kSlots / 4) - 1;  // slots of a lane, of one row

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

  using Queries = unsigned[kQueriesInRegisters ? kDepths : 1][4];

  __device__ __forceinline__ void attend(const Work& work, const WarpTile& tile, int side,
                                         unsigned char* rows) const {
    Queries queries;
    if constexpr (kQueriesInRegisters) {
#pragma unroll
      for (int depth = 0; depth < kDepths; ++depth) load_query(queries[depth], rows, depth);
    }
    const typename Tile::Row* of_rows = Tile::fixed().rows + lane / 4;
    const Bounds bounds[2] = {Tile::bounds_at(side, tile.corner + of_rows[0].field, {0, 0, 0}),
                              Tile::bounds_at(side, tile.corner + of_rows[8].field, {0, 0, 0})};
    Sums sums = {};
    LazyRow softmax[2];
    const int along = window.axis[kAxes - 1].slots;
    if (along <= 16 && (along & (along - 1)) == 0) {
      take_blocks<true>(sums, softmax, queries, rows, tile, bounds);
    } else {
      take_blocks<false>(sums, softmax, queries, rows, tile, bounds);
    }
    store(work, tile, rows, sums, softmax);
  }

  // All blocks of slots, with a mask of the last axis that repeats after sixteen or does not.
  template <bool kRepeats>
  __device__ __forceinline__ void take_blocks(Sums& sums, LazyRow (&softmax)[2],
                                              const Queries& queries, const unsigned char* rows,
                                              const WarpTile& tile,
                                              const Bounds (&bounds)[2]) const {
    // Keys as the product takes them: 0-7 and 8-15, each with the lower and the upper 8 channels.
    // Values: both eights of keys with the lower 8 channels, then with the upper.
    const unsigned corner = ptx::shared_address(Tile::tokens()) + tile.columns;
    const unsigned keys = corner + lane / 8 % 2 * 16;
    const unsigned values = corner + kHeadDim * 2 + lane / 16 * 16;
    Ends ends;
    if constexpr (kRepeats) ends = ends_of(bounds);
#pragma unroll 1
    for (int block = 0; block < window.blocks_of_slots; ++block) {
      const int* offsets = Tile::offsets() + block * kSlots;
      Scores scores = {};
      multiply_keys<kRepeats>(scores, queries, rows, ends, keys, offsets);
      const unsigned* below = Tile::below() + block * 4 + lane % 4;
      constexpr int kMasked = kRepeats ? kAxes - 1 : kAxes;
      const unsigned held[2] = {bounds[0].template bits<0, kMasked>(below),
                                bounds[1].template bits<0, kMasked>(below)};
      if (!kRepeats || __any_sync(kAllLanes, (held[0] & held[1]) != kAll)) mask(scores, held);
      raise_rows(softmax, sums, scores, params.scale_log2, block > 0);
      multiply_values(sums, scores, softmax, values, offsets);
    }
  }

  // What two rows see of sixteen slots along the last axis.
  __device__ __forceinline__ Ends ends_of(const Bounds (&bounds)[2]) const {
    Ends ends;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned held = bounds[half].template bits<kAxes - 1, kAxes>(Tile::below() + lane % 4);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        ends.of_rows[half][i / 2][i % 2] = held & 1u << i ? 0.f : -infinity();
      }
    }
    return ends;
  }

  static __device__ __forceinline__ void mask(Scores& scores, const unsigned (&held)[2]) {
#pragma unroll
    for (int n = 0; n < kSlots / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = held[i / 2] & 1u << (2 * n + i % 2) ? scores[n][i] : -infinity();
      }
    }
  }

  template <bool kRepeats>
  __device__ __forceinline__ void multiply_keys(Scores& scores, const Queries& queries,
                                                const unsigned char* rows, const Ends& ends,
                                                unsigned keys, const int* offsets) const {
    unsigned places[kSlots / 16];
#pragma unroll
    for (int i = 0; i < kSlots / 16; ++i) {
      places[i] = keys + offsets[i * 16 + lane / 16 * 8 + lane % 8];
    }
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
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float (&into)[4] = scores[2 * i + n];
          if (kRepeats && depth == 0) {
            ends.template multiply<T>(into, query, key[2 * n], key[2 * n + 1], n);
          } else {
            ptx::mma_m16n8k16<T>(into, query, key[2 * n], key[2 * n + 1]);
          }
        }
      }
    }
  }

  // Scores become weights just before the product in which they meet the values.
  __device__ __forceinline__ void multiply_values(Sums& sums, const Scores& scores,
                                                  LazyRow (&softmax)[2], unsigned first,
                                                  const int* offsets) const {
#pragma unroll
    for (int depth = 0; depth < kSlots / 16; ++depth) {
      unsigned weights[4];
      weigh<T>(weights, softmax, scores, 2 * depth, params.scale_log2);
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
                                        const Sums& sums, const LazyRow (&softmax)[2]) const {
    __syncwarp();  // every lane has read its part of Q
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = sum_over_quad(softmax[half].sum);
      const float factor = ptx::reciprocal_approx(sum);
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
              softmax[half].lse(sum);
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
