// Query tile x key box for forward: weights as fragments of the product with the values.
//
//   Q tile, slabs of K -> shared memory -> S = Q K^T, 16 rows x 64 columns of a warp
//   S -> mask -> exp(scale S + bias - maximum so far) -> fragments, stored as registers hold them
//
// The maximum of each row and chunk is stored beside them: the product with the values rescales its
// sums by it, and weights cross memory once in each direction.
#pragma once

#include "dense_tile.cuh"
#include "exponential.cuh"

namespace cupyna {

template <typename T>
struct GemmWeights : GemmDenseTile<T> {
  using Tile = GemmDenseTile<T>;
  using Tile::params, Tile::shared, Tile::warp, Tile::lane;
  using typename Tile::Pass;
  using typename Tile::Shared;
  using typename Tile::Slab;
  using Number = Wide<T>;
  using Chunk = GemmChunk<T>;

  const int pitch;
  char* const queries;  // in stages
  char* const slabs;
  long long* const offsets;
  const char* own;  // the rows of the pass at hand
  char* target;     // fragments of the next chunk
  Number* maxima;   // and where its maxima go
  Number largest[2], sums[2];

  __device__ GemmWeights(const GemmParams& given, Shared& shared, char* memory)
      : Tile(given, shared, Side::kQuery),
        pitch(Tile::pitch_of(given.channels)),
        queries(memory),
        slabs(queries + given.stages * Tile::kRows * pitch),
        offsets(reinterpret_cast<long long*>(slabs + given.stages * given.slab_rows * pitch)) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::lay_offsets(offsets, params.key);
    Tile::lay_own_offsets(offsets + params.slab_rows, params.query);
    __syncthreads();
    Tile::walk(*this, params.heads, 1);
  }

  __device__ __forceinline__ void copy_own(const Pass& pass, int of_stage) const {
    Tile::copy_tile(queries + of_stage * Tile::kRows * pitch, params.query,
                    offsets + params.slab_rows, pass, pass.head, params.channels,
                    params.is_vector(kQueryArray));
  }

  __device__ __forceinline__ void copy(const Pass& pass, const Slab& slab, int of_stage) const {
    Tile::copy_slab(slab_of(of_stage), Tile::place_of(slab), params.key, offsets, pass,
                    Tile::key_head(pass), 0, params.channels, pitch, params.is_vector(kKeyArray));
  }

  __device__ __forceinline__ void begin(const Pass& pass, bool, int own_stage) {
    own = queries + (own_stage * Tile::kRows + warp * Tile::kWarpRows) * pitch;
    target = Tile::fragments_of(params.weights, pass);
    maxima = Tile::maxima_of(pass);
    if (lane == 0) shared.heads[warp] = pass.head;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[half] = -Number(infinity());
      sums[half] = 0;
    }
  }

  __device__ __forceinline__ void take(int columns, const Coordinate& slab, int of_stage) {
#pragma unroll 1
    for (int first = 0; first < columns; first += Tile::kChunk) {
      const int at = Tile::template lay_columns<true>(slab, first);
      with_tiles<kChunkTiles<T>>((columns - first + 7) / 8, [&](auto tiles) {
        leave_chunk<decltype(tiles)::kCount>(slab, at, first, columns, of_stage);
      });
      target += Tile::groups_of(columns, first) * kBlockBytes<T>;
      maxima += Tile::kWarpRows;
    }
  }

  __device__ __forceinline__ void end(const Pass& pass) const {
    Number* const totals = Tile::maxima_of(pass) + params.chunks * Tile::kWarpRows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Number sum = sums[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (lane % 4 != 0) continue;
      totals[half * 8 + lane / 4] = sum;
      const int row = Tile::row_of(half);
      if (params.lse.data == nullptr || !shared.tokens[row].is_real) continue;
      static_cast<Number*>(params.lse.data)[Tile::offset_of_row(params.lse, row, pass, pass.head)] =
          largest[half] * Exponential<Number>::kNatural + logarithm(sum);
    }
  }

 private:
  __device__ __forceinline__ char* slab_of(int of_stage) const {
    return slabs + of_stage * params.slab_rows * pitch;
  }

  template <int kCount>
  __device__ __forceinline__ void leave_chunk(const Coordinate& slab, int at, int first,
                                              int columns, int of_stage) {
    Chunk scores = {};
    GemmProducts<T>::template multiply_rows<kCount, 1>(
        scores, own, slab_of(of_stage), pitch, Tile::padded_bytes(params.channels),
        shared.rows[warp] + at, Float32Way::of(params.is_precise));
    Number unit = Number(params.scale) * Exponential<Number>::kUnit;
    if (params.bias.data != nullptr || !(unit > 0)) {
      finish<kCount>(scores, slab, at, first, unit);
      unit = 1;
    }
    if (!Tile::template is_dense<8 * kCount>(at)) mask<kCount>(scores, at);
    exponentiate<kCount>(scores, unit);
    const int groups = min_of((columns - first + 15) / 16, kCount / 2);
#pragma unroll
    for (int group = 0; group < kCount / 2; ++group) {
      if (group >= groups) break;
      store_block<T>(target, group, block_of<T>(scores[2 * group], scores[2 * group + 1]));
    }
  }

  template <int kCount>
  __device__ __forceinline__ void mask(Chunk& scores, int at) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const unsigned seen = Tile::seen_by_lane(at + n * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool is_seen = seen >> (i % 2 * 16 + i / 2 * 8) & 1;
        scores[n][i] = is_seen ? scores[n][i] : -Number(infinity());
      }
    }
  }

  // Where a bias is added, or the scale is not positive, maxima are those of finished scores.
  template <int kCount>
  __device__ __forceinline__ void finish(Chunk& scores, const Coordinate& slab, int at, int first,
                                         Number unit) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] *= unit;
    }
    if (params.bias.data == nullptr) return;
    const Part part(Tile::part_of(Tile::slab_at(slab)));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate query = Tile::position_of(Tile::row_of(half), is_real);
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        const unsigned seen = Tile::seen_by_lane(at + n * 8) >> half * 8;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (!is_real || !(seen >> i * 16 & 1)) continue;
          const Coordinate in = part.at(first + n * 8 + lane % 4 * 2 + i);
          const T bias = *params.bias.template at<const T>(
              0, part.origin.x + in.x - query.x + params.axis[0].kernel_size - 1,
              part.origin.y + in.y - query.y + params.axis[1].kernel_size - 1,
              part.origin.z + in.z - query.z + params.axis[2].kernel_size - 1, shared.heads[warp]);
          scores[n][2 * half + i] += widen(bias) * Exponential<Number>::kUnit;
        }
      }
    }
  }

  // Exponentials of scores times `unit`, and the maxima that they are lowered by.
  template <int kCount>
  __device__ __forceinline__ void exponentiate(Chunk& scores, Number unit) {
    Number most[2], shift[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      most[half] = max(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
      for (int n = 1; n < kCount; ++n) {
        most[half] = max(most[half], max(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      most[half] = max(most[half], __shfl_xor_sync(0xffffffffu, most[half], 1));
      most[half] = max(most[half], __shfl_xor_sync(0xffffffffu, most[half], 2));
      most[half] = max(largest[half], most[half] * unit);
      // A row without a key so far must not meet inf - inf.
      shift[half] = most[half] == -Number(infinity()) ? Number(0) : most[half];
      sums[half] *= Exponential<Number>::of(largest[half] - shift[half]);
      largest[half] = most[half];
      if (lane % 4 == 0) maxima[half * 8 + lane / 4] = most[half];
    }
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = Exponential<Number>::of(scores[n][i] * unit - shift[i / 2]);
        sums[i / 2] += scores[n][i];
      }
    }
  }
};

}  // namespace cupyna
