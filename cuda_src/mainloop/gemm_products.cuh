// Products of fragments for each element type, with gathered rows and gathered elements.
//
// Sums have the same owners for every type: of a tile of 8 columns, lane l has rows l / 4 and
// l / 4 + 8, columns 2 (l % 4) and the next. So have elements of a left factor that lanes fetch
// one by one; the order in which columns enter an instruction is chosen for that.
#pragma once

#include "../common/numeric.cuh"
#include "../ptx/mma_sm80.cuh"
#include "../ptx/mma_wide_sm80.cuh"
#include "../ptx/shared_memory.cuh"

namespace cupyna {

// Tiles of eight columns of a chunk.
constexpr int kChunkTiles = 8;

// A lane's elements of 16 rows and 16 columns: rows l / 4 and l / 4 + 8, of columns 2 (l % 4), the
// next, and those eight further on.
template <typename T>
struct GatheredBlock {
  T element[2][4];
};

// 16-bit elements, and float32 by TF32.
template <typename T>
struct GemmProducts {
  static constexpr bool kIsWide = sizeof(T) == 4;

  // sums += A B^T: 16 rows of A from `own` on, and the rows of a slab that the chunk names. Rows
  // of both hold `bytes` bytes; 16 `pairs` columns are there.
  static __device__ __forceinline__ void multiply_rows(float (&sums)[kChunkTiles][4],
                                                       const char* own, const char* slab,
                                                       int pitch, int bytes, const int* rows,
                                                       int pairs, bool is_precise) {
    const int lane = threadIdx.x % 32;
    const unsigned left = ptx::shared_address(own) + lane % 16 * pitch + lane / 16 * 16;
    unsigned right[kChunkTiles / 2];
#pragma unroll
    for (int pair = 0; pair < kChunkTiles / 2; ++pair) {
      const int row = rows[pair * 16 + lane / 16 * 8 + lane % 8];
      right[pair] = ptx::shared_address(slab) + row * pitch + lane / 8 % 2 * 16;
    }
#pragma unroll 2
    for (int at = 0; at < bytes; at += 32) {
      unsigned a[4];
      ptx::ldmatrix_x4(a, left + at);
      unsigned big[4], small[4];
      if constexpr (kIsWide) split(a, big, small);
#pragma unroll
      for (int pair = 0; pair < kChunkTiles / 2; ++pair) {
        if (pair >= pairs) break;
        unsigned b[4];
        ptx::ldmatrix_x4(b, right[pair] + at);
        if constexpr (kIsWide) {
          multiply_tf32(sums[2 * pair], big, small, b[0], b[1], is_precise);
          multiply_tf32(sums[2 * pair + 1], big, small, b[2], b[3], is_precise);
        } else {
          ptx::mma_m16n8k16<T>(sums[2 * pair], a, b[0], b[1]);
          ptx::mma_m16n8k16<T>(sums[2 * pair + 1], a, b[2], b[3]);
        }
      }
    }
  }

  // sums += A B: fetched elements of 16 columns, and the slab's rows that these name. `tiles`
  // tiles of eight channels are there.
  template <int kTiles>
  static __device__ __forceinline__ void multiply_block(float (&sums)[kTiles][4],
                                                        const GatheredBlock<T>& block,
                                                        const char* slab, int pitch,
                                                        const int* rows, int tiles,
                                                        bool is_precise) {
    const int lane = threadIdx.x % 32;
    if constexpr (kIsWide) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const int first = step * 8 + lane % 4 * 2;
        const float* upper =
            reinterpret_cast<const float*>(slab + rows[first] * pitch) + lane / 4;
        const float* lower =
            reinterpret_cast<const float*>(slab + rows[first + 1] * pitch) + lane / 4;
        unsigned a[4], big[4], small[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = __float_as_uint(block.element[i % 2][2 * step + i / 2]);
        split(a, big, small);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          if (n >= tiles) break;
          multiply_tf32(sums[n], big, small, __float_as_uint(upper[n * 8]),
                        __float_as_uint(lower[n * 8]), is_precise);
        }
      }
    } else {
      const unsigned right =
          ptx::shared_address(slab) + rows[lane % 16] * pitch + lane / 16 * 16;
      unsigned a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = both(block.element[i % 2][i / 2 * 2], block.element[i % 2][i / 2 * 2 + 1]);
      }
#pragma unroll
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        if (2 * pair >= tiles) break;
        unsigned b[4];
        ptx::ldmatrix_x4_trans(b, right + pair * 32);
        ptx::mma_m16n8k16<T>(sums[2 * pair], a, b[0], b[1]);
        ptx::mma_m16n8k16<T>(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }

 private:
  static __device__ __forceinline__ unsigned both(const T& low, const T& high) {
    return *reinterpret_cast<const unsigned short*>(&low) |
           static_cast<unsigned>(*reinterpret_cast<const unsigned short*>(&high)) << 16;
  }

  static __device__ __forceinline__ void split(const unsigned (&a)[4], unsigned (&big)[4],
                                               unsigned (&small)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      big[i] = ptx::round_tf32(__uint_as_float(a[i]));
      small[i] = ptx::round_tf32(__uint_as_float(a[i]) - __uint_as_float(big[i]));
    }
  }

  // What TF32 rounds away of either factor meets the other one; both parts of it are too small.
  static __device__ __forceinline__ void multiply_tf32(float (&sums)[4], const unsigned (&big)[4],
                                                       const unsigned (&small)[4], unsigned b0,
                                                       unsigned b1, bool is_precise) {
    const unsigned upper = ptx::round_tf32(__uint_as_float(b0));
    const unsigned lower = ptx::round_tf32(__uint_as_float(b1));
    if (!is_precise) {
      ptx::mma_m16n8k8(sums, big, upper, lower);
      return;
    }
    // Tensor cores cut their sums off, always towards zero: long sums are rounded outside.
    float part[4] = {};
    ptx::mma_m16n8k8(part, big, ptx::round_tf32(__uint_as_float(b0) - __uint_as_float(upper)),
                     ptx::round_tf32(__uint_as_float(b1) - __uint_as_float(lower)));
    ptx::mma_m16n8k8(part, small, upper, lower);
    ptx::mma_m16n8k8(part, big, upper, lower);
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += part[i];
  }
};

template <>
struct GemmProducts<double> {
  static __device__ __forceinline__ void multiply_rows(double (&sums)[kChunkTiles][4],
                                                       const char* own, const char* slab,
                                                       int pitch, int bytes, const int* rows,
                                                       int pairs, bool) {
    const int lane = threadIdx.x % 32;
    const char* left = own + lane / 4 * pitch + lane % 4 * 8;
    int right[kChunkTiles];
#pragma unroll
    for (int n = 0; n < kChunkTiles; ++n) {
      right[n] = rows[n * 8 + lane / 4] * pitch + lane % 4 * 8;
    }
    for (int at = 0; at < bytes; at += 32) {
      const double upper = *reinterpret_cast<const double*>(left + at);
      const double lower = *reinterpret_cast<const double*>(left + 8 * pitch + at);
#pragma unroll
      for (int n = 0; n < kChunkTiles; ++n) {
        if (n >= 2 * pairs) break;
        const double b = *reinterpret_cast<const double*>(slab + right[n] + at);
        ptx::mma_m8n8k4(sums[n][0], sums[n][1], upper, b);
        ptx::mma_m8n8k4(sums[n][2], sums[n][3], lower, b);
      }
    }
  }

  template <int kTiles>
  static __device__ __forceinline__ void multiply_block(double (&sums)[kTiles][4],
                                                        const GatheredBlock<double>& block,
                                                        const char* slab, int pitch,
                                                        const int* rows, int tiles, bool) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int column = step / 2 * 8 + lane % 4 * 2 + step % 2;
      const double* right =
          reinterpret_cast<const double*>(slab + rows[column] * pitch) + lane / 4;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        if (n >= tiles) break;
        ptx::mma_m8n8k4(sums[n][0], sums[n][1], block.element[0][step], right[n * 8]);
        ptx::mma_m8n8k4(sums[n][2], sums[n][3], block.element[1][step], right[n * 8]);
      }
    }
  }
};

}  // namespace cupyna
