// The matrix products of one warp: its rows in registers, columns in shared memory.
#pragma once

#include "../common/pack.cuh"
#include "../common/swizzle.cuh"
#include "../ptx/mma_sm80.cuh"
#include "../ptx/shared_memory.cuh"

namespace cupyna {

// Scores are sums over kHeadDim channels; sums have kSumDim of them, all or a warp's share.
template <typename T, int kHeadDim, int kRowTiles, int kColumns, int kSumDim = kHeadDim>
struct ProductsSm80 {
  using Rows = Swizzle<kHeadDim * 2>;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kDepths = kHeadDim / 16;
  // Accumulators of rows x columns and of rows x channels, and the rows of one product, 16 deep.
  using Scores = float[kRowTiles][kColumns / 8][4];
  using Sums = float[kRowTiles][kSumDim / 8][4];
  using Fragments = unsigned[kRowTiles][4];

  static __device__ __forceinline__ unsigned address(const T* rows, int row, int chunk) {
    return ptx::shared_address(rows) + Rows::offset(row, chunk);
  }

  // Fragments of 16 rows and 16 channels: lanes 0-15 name rows, the upper half the next 8 channels.
  static __device__ __forceinline__ void load_row(unsigned (&fragment)[4], const T* rows, int warp,
                                                  int row_tile, int depth) {
    const int lane = threadIdx.x % 32;
    const int row = warp * kWarpRows + row_tile * 16 + lane % 16;
    ptx::ldmatrix_x4(fragment, address(rows, row, depth * 2 + lane / 16));
  }

  // scores += rows columns^T, over channels; `load(fragment, row_tile, depth)` gives the rows.
  template <typename Load>
  static __device__ __forceinline__ void multiply_rows(Scores& scores, const T* columns,
                                                       const Load& load) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int depth = 0; depth < kDepths; ++depth) {
      Fragments rows;
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        load(rows[row_tile], row_tile, depth);
      }
#pragma unroll
      for (int pair = 0; pair < kColumns / 16; ++pair) {
        // Columns 0-7 and 8-15 of the pair, each with the lower and the upper 8 channels.
        unsigned both[4];
        const int column = pair * 16 + lane / 16 * 8 + lane % 8;
        ptx::ldmatrix_x4(both, address(columns, column, depth * 2 + lane / 8 % 2));
#pragma unroll
        for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
          ptx::mma_m16n8k16<T>(scores[row_tile][2 * pair], rows[row_tile], both[0], both[1]);
          ptx::mma_m16n8k16<T>(scores[row_tile][2 * pair + 1], rows[row_tile], both[2], both[3]);
        }
      }
    }
  }

  // sums += weights columns, over 16 of the columns.
  static __device__ __forceinline__ void multiply_columns(Sums& sums, const Fragments& weights,
                                                          const T* columns, int depth,
                                                          int first_chunk = 0) {
    const int column = depth * 16 + threadIdx.x % 16;
#pragma unroll
    for (int pair = 0; pair < kSumDim / 16; ++pair) {
      unsigned both[4];
      ptx::ldmatrix_x4_trans(
          both, address(columns, column, first_chunk + pair * 2 + threadIdx.x % 32 / 16));
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        ptx::mma_m16n8k16<T>(sums[row_tile][2 * pair], weights[row_tile], both[0], both[1]);
        ptx::mma_m16n8k16<T>(sums[row_tile][2 * pair + 1], weights[row_tile], both[2], both[3]);
      }
    }
  }

  // One row tile's half row of sums, times a factor, into rows of shared memory.
  static __device__ __forceinline__ void lay_row(T* rows, int row,
                                                 const float (&sums)[kSumDim / 8][4], int half,
                                                 float factor, int first_chunk = 0) {
#pragma unroll
    for (int n = 0; n < kSumDim / 8; ++n) {
      const unsigned both = pack<T>(sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
      *reinterpret_cast<unsigned*>(reinterpret_cast<char*>(rows) +
                                   Rows::offset(row, first_chunk + n) + threadIdx.x % 4 * 4) = both;
    }
  }
};

}  // namespace cupyna
