// Tile x box, twice: fragments of weights and of gradients of scores, for backward.
//
//   S = Q K^T -> P = exp(scale S - lse)      dP = dO V^T -> dS = P (dP - delta)
//
// where delta = rowsum(dO O) - dlse. Tiles of queries leave dS for the gradients of queries, and
// the statistics of their rows. Tiles of keys compute the transposed products, with statistics by
// column, and leave P and dS for the gradients of values and keys: both sides' fragments are left
// factors as registers hold them, and nothing is transposed, selected or fetched by element.
//
// With kChannels the factors meet their rows at once, which are in shared memory: sums of so many
// channels stay in registers, and rows of gradients leave instead of fragments.
#pragma once

#include "dense_tile.cuh"
#include "exponential.cuh"
#include "row_sums.cuh"
#include "store.cuh"

namespace cupyna {

// Of one query.
struct alignas(8) GemmStatistics {
  float lse, delta;  // the log-sum-exp in units of the exponential
};

// For these architectures the compiler needs some registers more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr bool kNeedsMore = true;
#else
constexpr bool kNeedsMore = false;
#endif

// kTf32: products of TF32 numbers that make one of float32; 0 where a launch tells.
template <typename T, Side kSide, int kChannels = 0, int kTf32 = 0>
struct GemmGradients : GemmDenseTile<T> {
  using Tile = GemmDenseTile<T>;
  using Tile::params, Tile::shared, Tile::warp, Tile::lane;
  using typename Tile::Pass;
  using typename Tile::Place;
  using typename Tile::Shared;
  using typename Tile::Slab;
  using Chunk = GemmChunk<T>;
  static constexpr bool kIsOfKeys = kSide == Side::kKey;
  static constexpr bool kLeavesRows = kChannels > 0;
  static constexpr int kTiles = kLeavesRows ? kChannels / 8 : 1;
  // Tiles of eight columns taken at a time: sums leave registers for fewer.
  static constexpr bool kIsLong = sizeof(T) == 4 && kChannels > 64;
  static constexpr bool kHasFew = kIsOfKeys && (kNeedsMore || kIsLong);
  // Of channels: multiplied at a time, and sharing them, where registers are left for vectors.
  static constexpr int kTogether = kHasFew ? 2 : 4;
  static constexpr int kSharing =
      sizeof(T) == 2 || (kIsLong && (kNeedsMore || kTf32 == 3)) ? 1 : kTogether;
  static constexpr int kTaken = !kLeavesRows ? kChunkTiles<T> : kHasFew ? 2 : 4;

  char* const memory;
  int own_stage;  // of the pass at hand
  char* weights;  // fragments of the next chunk
  char* gradients;
  float lse[2], delta[2];
  float sums[kTiles][4];        // of gradients of queries, or of keys
  float value_sums[kTiles][4];  // of values, where tiles hold keys

  __device__ GemmGradients(const GemmParams& given, Shared& shared, char* memory)
      : Tile(given, shared, kSide), memory(memory) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::lay_offsets(offsets(), params.key);
    Tile::lay_offsets(offsets() + params.slab_rows, params.value);
    if constexpr (kIsOfKeys) {
      Tile::template lay_offsets<GemmStatistics>(offsets() + 2 * params.slab_rows,
                                                 params.statistics);
    }
    Tile::lay_own_offsets(own_offsets(), params.query);
    Tile::lay_own_offsets(own_offsets() + Tile::kRows, params.dout);
    __syncthreads();
    // Sums of a key head are those of all of its query heads.
    const int group = kIsOfKeys && kLeavesRows ? params.head_group : 1;
    Tile::walk(*this, params.heads / group, group);
  }

  __device__ __forceinline__ void copy_own(const Pass& pass, int of_stage) const {
    const int of_head = kIsOfKeys && !kLeavesRows ? Tile::key_head(pass) : pass.head;
    char* const to = own_of(of_stage);
    Tile::copy_tile(to, params.query, own_offsets(), pass, of_head, params.channels,
                    params.is_vector(kQueryArray));
    Tile::copy_tile(to + Tile::kRows * pitch(), params.dout, own_offsets() + Tile::kRows, pass,
                    of_head, params.value_channels, params.is_vector(kDoutArray));
  }

  __device__ __forceinline__ void copy(const Pass& pass, const Slab& slab, int of_stage) const {
    const Place place = Tile::place_of(slab);
    const int of_head = kIsOfKeys ? pass.query_head : Tile::key_head(pass);
    Tile::copy_slab(rows_of(of_stage), place, params.key, offsets(), pass, of_head, 0,
                    params.channels, pitch(), params.is_vector(kKeyArray));
    Tile::copy_slab(values_of(of_stage), place, params.value, offsets() + params.slab_rows, pass,
                    of_head, 0, params.value_channels, value_pitch(),
                    params.is_vector(kValueArray));
    if constexpr (kIsOfKeys) {
      const GemmStatistics* data = static_cast<const GemmStatistics*>(params.statistics.data) +
                                   Tile::slab_offset(params.statistics, pass, of_head, place);
      for (int row = threadIdx.x; row < place.rows; row += Tile::kThreads) {
        ptx::copy_async_8(
            ptx::shared_address(statistics_of(of_stage) + row),
            reinterpret_cast<const char*>(data) + offsets()[2 * params.slab_rows + row], 8);
      }
    }
  }

  __device__ __forceinline__ void begin(const Pass& pass, bool is_first, int of_stage) {
    own_stage = of_stage;
    if constexpr (kLeavesRows) {
      if (is_first) {
        clear(sums);
        clear(value_sums);
      }
    } else {
      gradients = Tile::fragments_of(params.gradient, pass);
      if constexpr (kIsOfKeys) weights = Tile::fragments_of(params.weights, pass);
    }
    if constexpr (!kIsOfKeys) load_statistics(pass);
  }

  __device__ __forceinline__ void end(const Pass& pass) const {
    if constexpr (kLeavesRows) {
      leave_rows(params.gradient, kGradientArray, sums, pass, params.channels, params.scale);
      if constexpr (kIsOfKeys) {
        leave_rows(params.weights, kWeightsArray, value_sums, pass, params.value_channels, 1);
      }
    }
  }

  __device__ __forceinline__ void take(int columns, const Coordinate& slab, int of_stage) {
#pragma unroll 1
    for (int first = 0; first < columns; first += 8 * kTaken) {
      const int at = Tile::template lay_columns<true>(slab, first);
      const int groups = (columns - first + 15) / 16;
      if constexpr (kTaken == 2) {
        leave_chunk<2>(at, groups, of_stage);
      } else {
        with_tiles<kTaken>((columns - first + 7) / 8, [&](auto tiles) {
          leave_chunk<decltype(tiles)::kCount>(at, groups, of_stage);
        });
      }
      if constexpr (!kLeavesRows) {
        gradients += Tile::groups_of(columns, first) * kBlockBytes<T>;
        if constexpr (kIsOfKeys) weights += Tile::groups_of(columns, first) * kBlockBytes<T>;
      }
    }
  }

 private:
  __device__ __forceinline__ Float32Way way() const {
    Float32Way way = Float32Way::of(params.is_precise);
    if (kTf32 != 0) way.is_precise = kTf32 == 3;
    return way;
  }

  // Read again where they are used: registers are for sums.
  __device__ __forceinline__ int pitch() const { return Tile::pitch_of(params.channels); }
  __device__ __forceinline__ int value_pitch() const {
    return Tile::pitch_of(params.value_channels);
  }
  __device__ __forceinline__ int both() const { return pitch() + value_pitch(); }

  // A stage's rows of the tile, and those beside them; then slabs, the same with statistics.
  __device__ __forceinline__ char* own_of(int of_stage) const {
    return memory + of_stage * Tile::kRows * both();
  }
  __device__ __forceinline__ char* rows_of(int of_stage) const {
    return memory + params.stages * Tile::kRows * both() + of_stage * slab_bytes();
  }
  __device__ __forceinline__ char* values_of(int of_stage) const {
    return rows_of(of_stage) + params.slab_rows * pitch();
  }
  __device__ __forceinline__ int slab_bytes() const {
    // Rows begin on 16 bytes.
    const int statistics = kIsOfKeys ? (params.slab_rows + 1) / 2 * 16 : 0;
    return params.slab_rows * both() + statistics;
  }
  __device__ __forceinline__ long long* offsets() const {
    return reinterpret_cast<long long*>(rows_of(params.stages));
  }
  __device__ __forceinline__ long long* own_offsets() const {
    return offsets() + (kIsOfKeys ? 3 : 2) * params.slab_rows;
  }
  __device__ __forceinline__ GemmStatistics* statistics_of(int of_stage) const {
    return reinterpret_cast<GemmStatistics*>(values_of(of_stage) +
                                             params.slab_rows * value_pitch());
  }

  template <int kCount>
  __device__ __forceinline__ void leave_chunk(int at, int groups, int of_stage) {
    const unsigned short* rows = shared.rows[warp] + at;
    const bool is_dense = Tile::template is_dense<8 * kCount>(at);
    Chunk shares = {};
    GemmProducts<T>::template multiply_rows<kCount, 1>(
        shares, own_of(own_stage) + warp * Tile::kWarpRows * pitch(), rows_of(of_stage), pitch(),
        Tile::padded_bytes(params.channels), rows, way());
    exponentiate<kCount>(shares, at, rows, of_stage, is_dense);
    if constexpr (kIsOfKeys && kLeavesRows) {
      add<kCount>(value_sums, shares, values_of(of_stage), value_pitch(), rows);
    } else if constexpr (kIsOfKeys) {
      leave<kCount>(weights, shares, groups);
    }
    Chunk changes = {};
    GemmProducts<T>::template multiply_rows<kCount, 1>(
        changes, own_of(own_stage) + Tile::kRows * pitch() + warp * Tile::kWarpRows * value_pitch(),
        values_of(of_stage), value_pitch(), Tile::padded_bytes(params.value_channels), rows, way());
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
    if constexpr (kLeavesRows) {
      add<kCount>(sums, changes, rows_of(of_stage), pitch(), rows);
    } else {
      leave<kCount>(gradients, changes, groups);
    }
  }

  // sums += a chunk's numbers times the slab's rows of its columns; columns that are not there have
  // zeros. Rows hold kChannels channels or half of them.
  template <int kCount>
  __device__ __forceinline__ void add(float (&to)[kTiles][4], const Chunk& numbers,
                                      const char* slab, int of_rows,
                                      const unsigned short* rows) const {
    with_tiles<kTiles>(
        of_rows > Tile::pitch_of(kChannels / 2) ? kTiles : kTiles / 2, [&](auto tiles) {
#pragma unroll
          for (int group = 0; group < kCount / 2; ++group) {
            GemmProducts<T>::template multiply_block<decltype(tiles)::kCount, kSharing, kTogether>(
                to, block_of<T>(numbers[2 * group], numbers[2 * group + 1]), slab, of_rows,
                rows + group * 16, way());
          }
        });
  }

  __device__ __forceinline__ void leave_rows(const Array& array, GemmArray which,
                                             const float (&from)[kTiles][4], const Pass& pass,
                                             int channels, double factor) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Tile::row_of(half);
      if (!shared.tokens[row].is_real) continue;
      T* const to = static_cast<T*>(array.data) + Tile::offset_of_row(array, row, pass, pass.head);
      store_row<T, kSharing>(to, from, half, channels, array.channel, params.is_vector(which),
                             float(factor));
    }
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
