// What scores and their gradients share: columns of products become scores, and pick their slots.
#pragma once

#include "exponential.cuh"
#include "slot_tile.cuh"
#include "stage.cuh"

namespace cupyna {

template <typename T>
struct GemmScoreTile : GemmSlotTile<T> {
  using Number = Wide<T>;
  using Tile = GemmSlotTile<T>;
  using Stage = GemmStage<T, Tile::kChunk>;
  using Tile::params, Tile::shared, Tile::warp, Tile::lane, Tile::head;
  using typename Tile::Shared;

  // Windows of rows l / 4 and l / 4 + 8 inside a part.
  struct Rows {
    GuardedWindow upper, lower;

    __device__ Rows(const GemmScoreTile& tile, const Coordinate& origin)
        : upper(tile.shared.windows[tile.row_of(0)], origin),
          lower(tile.shared.windows[tile.row_of(1)], origin) {}
    __device__ __forceinline__ const GuardedWindow& operator[](int half) const {
      return half == 0 ? upper : lower;
    }
  };

  // Which elements of a chunk are wanted: bit 2 n + i of each half.
  struct Wanted {
    unsigned bits[2];

    __device__ __forceinline__ bool has(int half, int n, int i) const {
      return bits[half] >> (2 * n + i) & 1;
    }
  };

  __device__ GemmScoreTile(const GemmParams& params, Shared& shared)
      : Tile(params, shared, Side::kQuery) {}

  static __device__ __forceinline__ Number nothing() { return -Number(infinity()); }

  __device__ __forceinline__ Stage stage_of(T* buffer, const Array& array, bool is_vector) const {
    bool is_real;
    const Coordinate at = Tile::position_of(stage_row(), is_real);
    T* const row = static_cast<T*>(array.data) + Tile::offset_of(array, at, head);
    return Stage(buffer, row, array.channel, is_real, is_vector);
  }

  // The row of the tile that a lane moves.
  __device__ __forceinline__ int stage_row() const { return warp * Tile::kWarpRows + lane / 2; }

  // Where a number of row l / 4 or l / 4 + 8 is, or null.
  __device__ __forceinline__ Number* number_of(const Array& array, int half) const {
    bool is_real;
    const Coordinate at = Tile::position_of(Tile::row_of(half), is_real);
    if (!is_real || array.data == nullptr) return nullptr;
    return static_cast<Number*>(array.data) + Tile::offset_of(array, at, head);
  }

  // Of a chunk's tiles of eight columns the first kCount are there.
  template <int kCount>
  __device__ __forceinline__ Wanted wanted_of(const Rows& rows) const {
    Wanted wanted = {};
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const uint2 fields = fields_of(n);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (rows[half].contains(fields.x)) wanted.bits[half] |= 1u << 2 * n;
        if (rows[half].contains(fields.y)) wanted.bits[half] |= 2u << 2 * n;
      }
    }
    return wanted;
  }

  // Products to scores, times `unit`.
  template <int kCount>
  __device__ __forceinline__ void finish_scores(GemmChunk<T>& scores, const Wanted& wanted,
                                                const Coordinate& origin, Number unit) const {
    const Number scale = Number(params.scale) * unit;
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[n][i] *= scale;
    }
    if (params.bias.data != nullptr) add_bias(scores, wanted, origin, unit);
  }

  // Where the slots of a row's columns are in a stage.
  __device__ __forceinline__ T* target_of(const Stage& stage, int half,
                                          const Coordinate& origin) const {
    return stage.buffer + stage.base_of(half) +
           Tile::slots().of(shared.windows[Tile::row_of(half)], origin);
  }

  // Columns pick their slots in shared memory.
  template <int kCount>
  __device__ __forceinline__ void leave(const GemmChunk<T>& numbers, const Wanted& wanted,
                                        T* const (&targets)[2]) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const int2 steps = *reinterpret_cast<const int2*>(&shared.steps[warp][n * 8 + lane % 4 * 2]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (wanted.has(half, n, 0)) targets[half][steps.x] = narrow<T>(numbers[n][2 * half]);
        if (wanted.has(half, n, 1)) targets[half][steps.y] = narrow<T>(numbers[n][2 * half + 1]);
      }
    }
  }

  // The elements that a lane has left.
  template <int kCount>
  __device__ __forceinline__ void take_back(GemmChunk<T>& numbers, const Wanted& wanted,
                                            T* const (&targets)[2]) const {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const int2 steps = *reinterpret_cast<const int2*>(&shared.steps[warp][n * 8 + lane % 4 * 2]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (wanted.has(half, n, 0)) numbers[n][2 * half] = targets[half][steps.x];
        if (wanted.has(half, n, 1)) numbers[n][2 * half + 1] = targets[half][steps.y];
      }
    }
  }

 private:
  __device__ __forceinline__ uint2 fields_of(int n) const {
    return *reinterpret_cast<const uint2*>(&shared.fields[warp][n * 8 + lane % 4 * 2]);
  }

  __device__ __forceinline__ void add_bias(GemmChunk<T>& scores, const Wanted& wanted,
                                           const Coordinate& origin, Number unit) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* const bias = bias_of(half, origin);
#pragma unroll
      for (int n = 0; n < kChunkTiles<T>; ++n) {
        const uint2 fields = fields_of(n);
        if (wanted.has(half, n, 0)) {
          scores[n][2 * half] += widen(bias[bias_step(fields.x)]) * unit;
        }
        if (wanted.has(half, n, 1)) {
          scores[n][2 * half + 1] += widen(bias[bias_step(fields.y)]) * unit;
        }
      }
    }
  }

  // Bias of a row and the first column of a part.
  __device__ __forceinline__ const T* bias_of(int half, const Coordinate& origin) const {
    bool is_real;
    const Coordinate query = Tile::position_of(Tile::row_of(half), is_real);
    return params.bias.template at<const T>(0, origin.x - query.x + params.axis[0].kernel_size - 1,
                                            origin.y - query.y + params.axis[1].kernel_size - 1,
                                            origin.z - query.z + params.axis[2].kernel_size - 1,
                                            head);
  }

  __device__ __forceinline__ long long bias_step(unsigned column) const {
    const Coordinate at = unpack_fields(column);
    return at.x * params.bias.axis[0] + at.y * params.bias.axis[1] + at.z * params.bias.axis[2];
  }
};

}  // namespace cupyna
