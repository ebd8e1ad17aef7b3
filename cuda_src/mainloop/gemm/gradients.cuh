// Tile x box, twice: fragments of weights and of gradients of scores, for backward.
//
//   S = Q K^T -> P = exp(scale S - lse)      dP = dO V^T -> dS = P (dP - delta)
//
// where delta = rowsum(dO O) - dlse. Tiles of queries leave dS for the gradients of queries, and
// the statistics of their rows. Tiles of keys compute the transposed products, with statistics by
// column, and leave P and dS for the gradients of values and keys: both sides' fragments are left
// factors as registers hold them, and nothing is transposed, selected or fetched by element.
#pragma once

#include "dense_tile.cuh"
#include "exponential.cuh"
#include "row_sums.cuh"

namespace cupyna {

// Of one query.
struct alignas(8) GemmStatistics {
  float lse, delta;  // the log-sum-exp in units of the exponential
};

template <typename T, Side kSide>
struct GemmGradients : GemmDenseTile<T> {
  using Tile = GemmDenseTile<T>;
  using Tile::params, Tile::shared, Tile::warp, Tile::lane;
  using typename Tile::Pass;
  using typename Tile::Shared;
  using Chunk = GemmChunk<T>;
  static constexpr bool kIsOfKeys = kSide == Side::kKey;

  const int pitch, value_pitch;
  char* const owns;   // of each stage: rows, and rows beside them
  char* const slabs;  // the same, and statistics of queries
  long long* const offsets;
  const char* own;
  const char* own_values;
  char* weights;  // fragments of the next chunk
  char* gradients;
  float lse[2], delta[2];

  __device__ GemmGradients(const GemmParams& given, Shared& shared, char* memory)
      : Tile(given, shared, kSide),
        pitch(Tile::pitch_of(given.channels)),
        value_pitch(Tile::pitch_of(given.value_channels)),
        owns(memory),
        slabs(owns + given.stages * Tile::kRows * (pitch + value_pitch)),
        offsets(reinterpret_cast<long long*>(slabs + given.stages * slab_bytes())) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::lay_offsets(offsets, params.key);
    Tile::lay_offsets(offsets + params.slab_rows, params.value);
    if constexpr (kIsOfKeys) Tile::lay_offsets(offsets + 2 * params.slab_rows, params.statistics);
    Tile::lay_own_offsets(own_offsets(), params.query);
    Tile::lay_own_offsets(own_offsets() + Tile::kRows, params.dout);
    __syncthreads();
    Tile::walk(*this, params.heads, 1);
  }

  __device__ __forceinline__ void copy_own(const Pass& pass, int of_stage) const {
    const int of_head = kIsOfKeys ? pass.head / params.head_group : pass.head;
    char* const to = owns + of_stage * Tile::kRows * (pitch + value_pitch);
    Tile::copy_tile(to, params.query, own_offsets(), pass, of_head, params.channels,
                    params.is_vector(kQueryArray));
    Tile::copy_tile(to + Tile::kRows * pitch, params.dout, own_offsets() + Tile::kRows, pass,
                    of_head, params.value_channels, params.is_vector(kDoutArray));
  }

  __device__ __forceinline__ void copy(const Pass& pass, const Coordinate& at, int of_stage) const {
    const int of_head = kIsOfKeys ? pass.head : pass.head / params.head_group;
    Tile::copy_slab(rows_of(of_stage), at, params.key, offsets, pass, of_head, 0, params.channels,
                    pitch, params.is_vector(kKeyArray));
    Tile::copy_slab(values_of(of_stage), at, params.value, offsets + params.slab_rows, pass,
                    of_head, 0, params.value_channels, value_pitch, params.is_vector(kValueArray));
    if constexpr (kIsOfKeys) {
      const GemmStatistics* data = static_cast<const GemmStatistics*>(params.statistics.data) +
                                   Tile::slab_offset(params.statistics, pass, of_head, at);
      const int rows = Tile::slab_rows(at);
      for (int row = threadIdx.x; row < rows; row += Tile::kThreads) {
        ptx::copy_async_8(ptx::shared_address(statistics_of(of_stage) + row),
                          data + offsets[2 * params.slab_rows + row], 8);
      }
    }
  }

  __device__ __forceinline__ void begin(const Pass& pass, bool, int own_stage) {
    const char* const from = owns + own_stage * Tile::kRows * (pitch + value_pitch);
    own = from + warp * Tile::kWarpRows * pitch;
    own_values = from + Tile::kRows * pitch + warp * Tile::kWarpRows * value_pitch;
    gradients = Tile::fragments_of(params.gradient, pass);
    if constexpr (kIsOfKeys) {
      weights = Tile::fragments_of(params.weights, pass);
    } else {
      load_statistics(pass);
    }
  }

  __device__ __forceinline__ void end(const Pass&) const {}

  __device__ __forceinline__ void take(int columns, const Coordinate& slab, int of_stage) {
#pragma unroll 1
    for (int first = 0; first < columns; first += Tile::kChunk) {
      const int at = Tile::template lay_columns<true>(slab, first);
      with_tiles<kChunkTiles<T>>((columns - first + 7) / 8, [&](auto tiles) {
        leave_chunk<decltype(tiles)::kCount>(at, (columns - first + 15) / 16, of_stage);
      });
      gradients += Tile::groups_of(columns, first) * kBlockBytes<T>;
      if constexpr (kIsOfKeys) weights += Tile::groups_of(columns, first) * kBlockBytes<T>;
    }
  }

 private:
  __device__ __forceinline__ long long* own_offsets() const {
    return offsets + (kIsOfKeys ? 3 : 2) * params.slab_rows;
  }
  __device__ __forceinline__ int slab_bytes() const {
    // Rows begin on 16 bytes.
    const int statistics = kIsOfKeys ? (params.slab_rows + 1) / 2 * 16 : 0;
    return params.slab_rows * (pitch + value_pitch) + statistics;
  }
  __device__ __forceinline__ char* rows_of(int of_stage) const {
    return slabs + of_stage * slab_bytes();
  }
  __device__ __forceinline__ char* values_of(int of_stage) const {
    return rows_of(of_stage) + params.slab_rows * pitch;
  }
  __device__ __forceinline__ GemmStatistics* statistics_of(int of_stage) const {
    return reinterpret_cast<GemmStatistics*>(values_of(of_stage) + params.slab_rows * value_pitch);
  }

  template <int kCount>
  __device__ __forceinline__ void leave_chunk(int at, int groups, int of_stage) {
    const unsigned short* rows = shared.rows[warp] + at;
    const bool is_dense = Tile::template is_dense<8 * kCount>(at);
    Chunk shares = {};
    GemmProducts<T>::template multiply_rows<kCount, 1>(shares, own, rows_of(of_stage), pitch,
                                                       Tile::padded_bytes(params.channels), rows,
                                                       params.is_precise);
    exponentiate<kCount>(shares, at, rows, of_stage, is_dense);
    if constexpr (kIsOfKeys) leave<kCount>(weights, shares, groups);
    Chunk changes = {};
    GemmProducts<T>::template multiply_rows<kCount, 1>(
        changes, own_values, values_of(of_stage), value_pitch,
        Tile::padded_bytes(params.value_channels), rows, params.is_precise);
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      float of_column[2] = {};
      if constexpr (kIsOfKeys) load_of_columns(of_column, rows, n, of_stage, 1);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        changes[n][i] =
            shares[n][i] * (changes[n][i] - (kIsOfKeys ? of_column[i % 2] : delta[i / 2]));
      }
    }
    leave<kCount>(gradients, changes, groups);
  }

  template <int kCount>
  __device__ __forceinline__ void exponentiate(Chunk& scores, int at, const unsigned short* rows,
                                               int of_stage, bool is_dense) const {
    const float unit = float(params.scale) * Exponential<float>::kUnit;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      float of_column[2] = {};
      if constexpr (kIsOfKeys) load_of_columns(of_column, rows, n, of_stage, 0);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        scores[n][i] = Exponential<float>::of(scores[n][i] * unit -
                                              (kIsOfKeys ? of_column[i % 2] : lse[i / 2]));
      }
    }
    if (is_dense) return;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const unsigned seen = Tile::seen_by_lane(at + n * 8);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool is_seen = seen >> (i % 2 * 16 + i / 2 * 8) & 1;
        scores[n][i] = is_seen ? scores[n][i] : 0.f;
      }
    }
  }

  // One of the numbers of the queries of a lane's two columns.
  __device__ __forceinline__ void load_of_columns(float (&numbers)[2], const unsigned short* rows,
                                                  int n, int of_stage, int which) const {
    const float* statistics = reinterpret_cast<const float*>(statistics_of(of_stage)) + which;
    const unsigned pair = *reinterpret_cast<const unsigned*>(rows + n * 8 + lane % 4 * 2);
    numbers[0] = statistics[2 * (pair & 0xffffu)];
    numbers[1] = statistics[2 * (pair >> 16)];
  }

  template <int kCount>
  __device__ __forceinline__ void leave(char* target, const Chunk& numbers, int groups) const {
#pragma unroll
    for (int group = 0; group < kCount / 2; ++group) {
      if (group >= groups) break;
      store_block<T>(target, group, block_of<T>(numbers[2 * group], numbers[2 * group + 1]));
    }
  }

  // Four lanes share rows l / 4 and l / 4 + 8.
  __device__ __forceinline__ void load_statistics(const Pass& pass) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Tile::row_of(half);
      delta[half] = row_sum_of<T>(params, Tile::offset_of_row(params.dout, row, pass, pass.head),
                                  Tile::offset_of_row(params.output, row, pass, pass.head),
                                  Tile::offset_of_row(params.dlse, row, pass, pass.head));
      lse[half] = static_cast<const float*>(
                      params.lse.data)[Tile::offset_of_row(params.lse, row, pass, pass.head)] *
                  Exponential<float>::kUnit;
      if (lane % 4 != 0 || !shared.tokens[row].is_real) continue;
      GemmStatistics* const left = static_cast<GemmStatistics*>(params.statistics.data) +
                                   Tile::offset_of_row(params.statistics, row, pass, pass.head);
      *left = GemmStatistics{lse[half], delta[half]};
    }
  }
};

}  // namespace cupyna
