// What scores and their gradients share: columns of products become scores, and pick their slots.
#pragma once

#include "../softmax/online.cuh"
#include "gemm_products.cuh"
#include "gemm_stage.cuh"
#include "gemm_tile.cuh"

namespace cupyna {

__device__ __forceinline__ float gemm_exponential(float x) {
  return ptx::exp2_approx(x * 1.4426950408889634f);
}
__device__ __forceinline__ double gemm_exponential(double x) { return exp(x); }

// Products of 16 rows and a chunk of columns; a lane's share.
template <typename T>
using GemmChunk = Wide<T>[kChunkTiles][4];

template <typename T>
struct GemmScoreTile : GemmTile<T, Side::kQuery> {
  using Number = Wide<T>;
  using Tile = GemmTile<T, Side::kQuery>;
  using Stage = GemmStage<T, Tile::kChunk>;
  using typename Tile::Shared;
  using Tile::params, Tile::shared, Tile::warp, Tile::lane, Tile::head;

  // Windows of rows l / 4 and l / 4 + 8 inside a part.
  struct Rows {
    PackedWindow upper, lower;

    __device__ Rows(const GemmScoreTile& tile, const Coordinate& origin)
        : upper(tile.shared.windows[tile.row_of(0)], origin),
          lower(tile.shared.windows[tile.row_of(1)], origin) {}
    __device__ __forceinline__ const PackedWindow& operator[](int half) const {
      return half == 0 ? upper : lower;
    }
  };

  __device__ GemmScoreTile(const GemmParams& params, Shared& shared) : Tile(params, shared) {}

  static __device__ __forceinline__ Number nothing() { return -Number(infinity()); }

  __device__ __forceinline__ Stage stage_of(T* buffer, const Array& array, bool is_vector) const {
    bool is_real;
    const Coordinate at = Tile::position_of(stage_row(), is_real);
    T* const row = static_cast<T*>(array.data) + Tile::offset_of(array, at, head);
    return Stage(buffer, row, array.channel, is_real, is_vector);
  }

  // The row of the tile that a lane moves.
  __device__ __forceinline__ int stage_row() const {
    return warp * Tile::kWarpRows + lane / 2;
  }

  // Where a number of row l / 4 or l / 4 + 8 is, or null.
  __device__ __forceinline__ Number* number_of(const Array& array, int half) const {
    bool is_real;
    const Coordinate at = Tile::position_of(Tile::row_of(half), is_real);
    if (!is_real || array.data == nullptr) return nullptr;
    return static_cast<Number*>(array.data) + Tile::offset_of(array, at, head);
  }

  // Scale and bias; minus infinity where a row does not see a column.
  __device__ __forceinline__ void finish_scores(GemmChunk<T>& scores, const Rows& rows,
                                                const Coordinate& origin) const {
    const Number scale = Number(params.scale);
    const bool has_bias = params.bias.data != nullptr;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* bias = has_bias ? bias_of(half, origin) : nullptr;
#pragma unroll
      for (int n = 0; n < kChunkTiles; ++n) {
        const uint2 fields = fields_of(n);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Number& score = scores[n][2 * half + i];
          const unsigned column = i == 0 ? fields.x : fields.y;
          if (rows[half].contains(column)) {
            score *= scale;
            if (has_bias) score += widen(bias[bias_step(column)]);
          } else {
            score = nothing();
          }
        }
      }
    }
  }

  // Columns pick their slots in shared memory.
  __device__ __forceinline__ void leave(const GemmChunk<T>& numbers, const Rows& rows,
                                        const Coordinate& origin, const Stage& stage) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      T* const target = stage.buffer + stage.base_of(half) +
                        Tile::slots().of(shared.windows[Tile::row_of(half)], origin);
#pragma unroll
      for (int n = 0; n < kChunkTiles; ++n) {
        const uint2 fields = fields_of(n);
        const int2 steps =
            *reinterpret_cast<const int2*>(&shared.steps[warp][n * 8 + lane % 4 * 2]);
        if (rows[half].contains(fields.x)) target[steps.x] = narrow<T>(numbers[n][2 * half]);
        if (rows[half].contains(fields.y)) target[steps.y] = narrow<T>(numbers[n][2 * half + 1]);
      }
    }
  }

 private:
  __device__ __forceinline__ uint2 fields_of(int n) const {
    return *reinterpret_cast<const uint2*>(&shared.fields[warp][n * 8 + lane % 4 * 2]);
  }

  // Bias of a row and the first column of a part.
  __device__ __forceinline__ const T* bias_of(int half, const Coordinate& origin) const {
    bool is_real;
    const Coordinate query = Tile::position_of(Tile::row_of(half), is_real);
    return params.bias.template at<const T>(
        0, origin.x - query.x + params.axis[0].kernel_size - 1,
        origin.y - query.y + params.axis[1].kernel_size - 1,
        origin.z - query.z + params.axis[2].kernel_size - 1, head);
  }

  __device__ __forceinline__ long long bias_step(unsigned column) const {
    const Coordinate at = unpack_fields(column);
    return at.x * params.bias.axis[0] + at.y * params.bias.axis[1] + at.z * params.bias.axis[2];
  }
};

}  // namespace cupyna
