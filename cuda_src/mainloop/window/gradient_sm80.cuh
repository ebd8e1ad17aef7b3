// The fused backward for small windows: a pass over queries for dQ and one over keys for dK and dV,
// each a warp of 16 rows at a time with the columns of their own box, in one go. Nothing is shared
// between blocks: no atomics, and the same bits in every run.
//
//   per warp tile, 16 slots at a time, from the box in shared memory:
//     P  = exp(scale first first^T - lse)      rows of Q, K against columns of K, Q
//     dS = P (second second^T - delta)         rows of dO, V against columns of V, dO
//     rows are queries:  dQ += dS K
//     rows are keys:     dV += P^T dO,  dK += dS^T Q     (P and dS are held transposed)
//
// A small kernel finds the log-sum-exp and delta of each query before. They lie in the padding of
// the queries' rows.
#pragma once

#include "../../common/pack.cuh"
#include "../../ptx/arithmetic.cuh"
#include "../../ptx/mma_sm80.cuh"
#include "walk_sm80.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kSlots, Side kSide>
struct WindowGradientSm80 : WindowWalkSm80<T, kHeadDim, kSlots, kSide, 2, 1> {
  using Walk = WindowWalkSm80<T, kHeadDim, kSlots, kSide, 2, 1>;
  using Tile = typename Walk::Tile;
  using Tile::lane, Tile::window;
  using typename Tile::Bounds;
  using typename Tile::Row;
  using typename Tile::WarpTile;
  using typename Tile::Work;
  using Sums = float[kHeadDim / 8][4];

  static constexpr bool kRowsAreQueries = kSide == Side::kQuery;
  static constexpr int kDepths = kHeadDim / 16;
  static constexpr int kSteps = kSlots / 16;  // of a block of slots

  // More channels leave no registers for several steps at a time.
  static constexpr bool kUnrolled = kHeadDim <= 64;

  // Both arrays of the rows stay in registers where they leave enough for the sums.
  static constexpr bool kSecondInRegisters = kRowsAreQueries || kHeadDim <= 64;

  struct Rows {
    unsigned first[kDepths][4];
    unsigned second[kSecondInRegisters ? kDepths : 1][4];
    unsigned place;       // of the lane's part of the second array's first fragment
    Statistics known[2];  // of a thread's two, where they are queries
  };

  const GradientParams& params;

  __device__ WindowGradientSm80(const WindowGradientParams& given, unsigned char* memory)
      : Walk(given.grid, given.attention, operands_of(given.attention), memory),
        params(given.attention) {}

  __device__ __forceinline__ void run() {
    Walk::run(
        [this](const Work& work, const WarpTile& tile, int side, unsigned char* rows, auto go_on) {
          Rows held;
          const unsigned place =
              ptx::shared_address(rows) + lane % 16 * Tile::kRowBytes + lane / 16 * 16;
          held.place = place + Tile::kArrayBytes;
          load(held.first, place);
          if constexpr (kRowsAreQueries) load_statistics(held, rows);
          if constexpr (kSecondInRegisters) {
            load(held.second, held.place);
            go_on();
          }
          if (tile.head >= 0) attend(work, tile, side, held);
          if constexpr (!kSecondInRegisters) go_on();
        });
  }

 private:
  static __device__ __forceinline__ WindowOperands operands_of(const GradientParams& params) {
    if (kRowsAreQueries) return {params.q, params.dout, params.k, params.v, params.statistics};
    return {params.k, params.v, params.q, params.dout, params.statistics};
  }

  static __device__ __forceinline__ void load(unsigned (&fragments)[kDepths][4], unsigned place) {
#pragma unroll
    for (int depth = 0; depth < kDepths; ++depth) {
      ptx::ldmatrix_x4(fragments[depth], place + depth * 32);
    }
  }

  __device__ __forceinline__ void load_statistics(Rows& held, const unsigned char* rows) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      held.known[half] = *reinterpret_cast<const Statistics*>(
          rows + (lane / 4 + 8 * half) * Tile::kRowBytes + kHeadDim * 2);
    }
  }

  __device__ __forceinline__ void attend(const Work& work, const WarpTile& tile, int side,
                                         const Rows& rows) const {
    const unsigned fields[2] = {tile.corner + Tile::fixed().rows[lane / 4].field,
                                tile.corner + Tile::fixed().rows[lane / 4 + 8].field};
    Sums first = {};   // dQ or dK
    Sums second = {};  // dV
    const Coordinate again = unpack_fields(tile.again);
    const int last = (again.x ? 1 : 0) | (again.y ? 2 : 0) | (again.z ? 4 : 0);
#pragma unroll 1
    for (int pass = 0; pass <= (Tile::kPasses == 1 ? 0 : last); ++pass) {
      if (pass & ~last) continue;
      const Coordinate at{pass & 1, pass >> 1 & 1, pass >> 2};
      const int moved = at.x * again.x * window.axis[0].pitch +
                        at.y * again.y * window.axis[1].pitch + at.z * again.z;
      const unsigned char* corner = Tile::tokens() + tile.columns + moved * Tile::kTokenBytes;
      const Bounds bounds[2] = {Tile::bounds_at(side, fields[0], at),
                                Tile::bounds_at(side, fields[1], at)};
#pragma unroll 1
      for (int block = 0; block < window.blocks_of_slots; ++block) {
        const unsigned* below = Tile::below() + block * 4 + lane % 4;
        const unsigned held[2] = {bounds[0].bits(below), bounds[1].bits(below)};
        const auto take = [&](int step) {
          multiply(first, second, rows, corner, Tile::offsets() + block * kSlots + step * 16,
                   {held[0] >> 4 * step, held[1] >> 4 * step});
        };
        const int left = min_of(window.steps_of_slots - block * kSteps, kSteps);
        if (kUnrolled && left > kSteps / 2) {
#pragma unroll
          for (int step = 0; step < kSteps; ++step) take(step);
        } else {
#pragma unroll 1
          for (int step = 0; step < left; ++step) take(step);
        }
      }
    }
    store(kRowsAreQueries ? params.dq : params.dk, first, work, tile, params.head_dim,
          params.scale);
    if constexpr (!kRowsAreQueries) store(params.dv, second, work, tile, params.value_dim, 1.f);
  }

  struct Held {
    unsigned rows[2];
  };

  // Sixteen slots.
  __device__ __forceinline__ void multiply(Sums& first, Sums& second, const Rows& rows,
                                           const unsigned char* corner, const int* offsets,
                                           const Held& held) const {
    float weights[2][4] = {}, gradients[2][4] = {};
    const float less[4] = {-rows.known[0].delta, -rows.known[0].delta, -rows.known[1].delta,
                           -rows.known[1].delta};
    const unsigned begin = ptx::shared_address(corner);
    const unsigned place = begin + offsets[lane / 16 * 8 + lane % 8] + lane / 8 % 2 * 16;
#pragma unroll
    for (int depth = 0; depth < kDepths; ++depth) {
      unsigned column[4], row[4];
      ptx::ldmatrix_x4(column, place + depth * 32);
      ptx::mma_m16n8k16<T>(weights[0], rows.first[depth], column[0], column[1]);
      ptx::mma_m16n8k16<T>(weights[1], rows.first[depth], column[2], column[3]);
      if constexpr (kSecondInRegisters) {
#pragma unroll
        for (int i = 0; i < 4; ++i) row[i] = rows.second[depth][i];
      } else {
        ptx::ldmatrix_x4(row, rows.place + depth * 32);
      }
      ptx::ldmatrix_x4(column, place + kHeadDim * 2 + depth * 32);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        // Where a row is a query, its products start from what is taken from them.
        if (kRowsAreQueries && depth == 0) {
          ptx::mma_m16n8k16_onto<T>(gradients[n], less, row, column[2 * n], column[2 * n + 1]);
        } else {
          ptx::mma_m16n8k16<T>(gradients[n], row, column[2 * n], column[2 * n + 1]);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      Statistics of_columns[2];
      if constexpr (!kRowsAreQueries) {
        const uint2 pair = *reinterpret_cast<const uint2*>(offsets + n * 8 + lane % 4 * 2);
        of_columns[0] = statistics_at(corner + pair.x);
        of_columns[1] = statistics_at(corner + pair.y);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float lse_log2 =
            kRowsAreQueries ? rows.known[i / 2].lse_log2 : of_columns[i % 2].lse_log2;
        const float weight = ptx::exp2_approx(weights[n][i] * params.scale_log2 - lse_log2);
        weights[n][i] = held.rows[i / 2] & 1u << (2 * n + i % 2) ? weight : 0.f;
        if (!kRowsAreQueries) gradients[n][i] -= of_columns[i % 2].delta;
        gradients[n][i] *= weights[n][i];
      }
    }
    const unsigned turned = begin + offsets[lane % 16] + lane / 16 * 16;
    if constexpr (!kRowsAreQueries) add(second, weights, turned + kHeadDim * 2);
    add(first, gradients, turned);
  }

  // Of a column, after its key and its value.
  static __device__ __forceinline__ Statistics statistics_at(const unsigned char* token) {
    return *reinterpret_cast<const Statistics*>(token + kHeadDim * 4);
  }

  // Products of weights, rounded, and of rows of the box.
  static __device__ __forceinline__ void add(Sums& sums, const float (&weights)[2][4],
                                             unsigned place) {
    const unsigned rounded[4] = {
        pack<T>(weights[0][0], weights[0][1]), pack<T>(weights[0][2], weights[0][3]),
        pack<T>(weights[1][0], weights[1][1]), pack<T>(weights[1][2], weights[1][3])};
#pragma unroll
    for (int pair = 0; pair < kHeadDim / 16; ++pair) {
      unsigned columns[4];
      ptx::ldmatrix_x4_trans(columns, place + pair * 32);
      ptx::mma_m16n8k16<T>(sums[2 * pair], rounded, columns[0], columns[1]);
      ptx::mma_m16n8k16<T>(sums[2 * pair + 1], rounded, columns[2], columns[3]);
    }
  }

  static __device__ __forceinline__ Coordinate position(const Work& work, unsigned field) {
    const Coordinate at = unpack_fields(field);
    return {work.own[0].begin + at.x, work.own[1].begin + at.y, work.own[2].begin + at.z};
  }

  // Straight from registers: rows of shared memory already wait for the next tile.
  __device__ __forceinline__ void store(const Array& array, const Sums& sums, const Work& work,
                                        const WarpTile& tile, int channels, float factor) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Row row = Tile::fixed().rows[lane / 4 + 8 * half];
      if (!Tile::is_not_past(row, tile.last)) continue;
      T* target = static_cast<T*>(array.data) + tile.head * array.head +
                  Tile::offset_of(array, work, position(work, tile.corner + row.field)) +
                  lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        if (n * 8 < channels) {
          *reinterpret_cast<unsigned*>(target + n * 8) =
              pack<T>(sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
        }
      }
    }
  }
};

}  // namespace cupyna
