// The matrix products of one warp: its rows in registers, columns in shared memory.
//
// Three flavors: 16-bit elements, float32 rounded to TF32, and float32 as sums of two TF32 numbers
// each, of whose four products the three large ones count (3xTF32: float32's accuracy).
#pragma once

#include "../../common/pack.cuh"
#include "../../common/swizzle.cuh"
#include "../../ptx/arithmetic.cuh"
#include "../../ptx/mma_sm80.cuh"
#include "../../ptx/shared_memory.cuh"

namespace cupyna {

// By products of TF32 numbers that make one.
enum class Flavor { k16Bit = 0, kTf32 = 1, k3xTf32 = 3 };

// One operand's registers, with the remainders of 3xTF32 where there are any.
template <Flavor kFlavor, int kRegisters>
struct Operand {
  unsigned large[kRegisters], small[kFlavor == Flavor::k3xTf32 ? kRegisters : 1];

  Operand() = default;

  // Float32 numbers become TF32; others are fragments already. Products ignore what stands below
  // TF32's ten bits of mantissa. For 3xTF32 integers round, in half a conversion's instructions;
  // a NaN that this loses is still in the remainder.
  __device__ __forceinline__ explicit Operand(const unsigned (&raw)[kRegisters]) {
#pragma unroll
    for (int i = 0; i < kRegisters; ++i) {
      if constexpr (kFlavor == Flavor::k16Bit) {
        large[i] = raw[i];
      } else if constexpr (kFlavor == Flavor::kTf32) {
        large[i] = ptx::to_tf32(__uint_as_float(raw[i]));
      } else {
        large[i] = (raw[i] + 0x1000u) & 0xffffe000u;
        small[i] = __float_as_uint(__uint_as_float(raw[i]) - __uint_as_float(large[i]));
      }
    }
  }
};

// Scores are sums over kHeadDim channels; sums have kSumDim of them, all or a warp's share.
template <typename T, Flavor kFlavor, int kHeadDim, int kRowTiles, int kColumns,
          int kSumDim = kHeadDim>
struct ProductsSm80 {
  static constexpr int kRowBytes = kHeadDim * sizeof(T);
  using Rows = Swizzle<kRowBytes>;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kPerChunk = 16 / sizeof(T);  // channels in 16 bytes
  static constexpr int kDepths = kHeadDim / kPerChunk / 2;
  // Columns of one product of weights.
  static constexpr int kWeightDepth = kFlavor == Flavor::k16Bit ? 16 : 8;
  // Accumulators of rows x columns and of rows x channels.
  using Scores = float[kRowTiles][kColumns / 8][4];
  using Sums = float[kRowTiles][kSumDim / 8][4];
  using Fragment = unsigned[4];
  // Weights as products take them: of each kWeightDepth columns, the rows of each row tile.
  using Weights = Fragment[kColumns / kWeightDepth][kRowTiles];

  static __device__ __forceinline__ unsigned address(const T* rows, int row, int chunk) {
    return ptx::shared_address(rows) + Rows::offset(row, chunk);
  }

  // Where a lane's part of the first fragment of a warp's rows lies. Loads and products that keep
  // no address of each other's say so by kIsApart: registers are short.
  template <bool kIsApart = false>
  static __device__ __forceinline__ unsigned place_of_rows(const T* rows, int warp) {
    const int lane = kIsApart ? ptx::lane_id() : threadIdx.x % 32;
    return address(rows, warp * kWarpRows + lane % 16, lane / 16);
  }

  // Fragments of 16 rows and 32 bytes of each: lanes 0-15 name rows, the upper half the next chunk.
  static __device__ __forceinline__ void load_row(Fragment& fragment, unsigned place, int row_tile,
                                                  int depth) {
    ptx::ldmatrix_x4(fragment, Rows::moved(place, depth * 2) + row_tile * 16 * kRowBytes);
  }

  // scores += rows columns^T, over channels; `load(fragment, row_tile, depth)` gives the rows.
  template <bool kIsApart = false, typename Load>
  static __device__ __forceinline__ void multiply_rows(Scores& scores, const T* columns,
                                                       const Load& load) {
    // Float32 scores of many channels are added up outside of tensor cores too: see kAddsTiles.
    constexpr bool kAddsChannels = kFlavor == Flavor::k3xTf32 && kHeadDim > 128;
    constexpr int kRun = kAddsChannels ? 64 / kPerChunk / 2 : kDepths;
    if constexpr (!kAddsChannels) {
      multiply_rows<kIsApart>(scores, columns, load, 0, kRun);
    } else {
#pragma unroll 1
      for (int begin = 0; begin < kDepths; begin += kRun) {
        Scores part = {};
        multiply_rows<kIsApart>(part, columns, load, begin, kRun);
        add(scores, part);
      }
    }
  }

  // Whether sums grow by those of whole tiles. Tensor cores cut sums off where float32 rounds them,
  // and over thousands of products that shows in float32.
  static constexpr bool kAddsTiles = kFlavor == Flavor::k3xTf32;

  // Scores of kWeightDepth columns, rounded for the next product.
  static __device__ __forceinline__ void round(Fragment (&weights)[kRowTiles], const Scores& scores,
                                               int depth) {
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (kFlavor == Flavor::k16Bit) {
          const float (&four)[4] = scores[row_tile][2 * depth + i / 2];
          weights[row_tile][i] = pack<T>(four[i % 2 * 2], four[i % 2 * 2 + 1]);
        } else {
          // An accumulator's two columns are slots lane % 4 and lane % 4 + 4: see multiply_part.
          weights[row_tile][i] = __float_as_uint(scores[row_tile][depth][i % 2 * 2 + i / 2]);
        }
      }
    }
  }

  static __device__ __forceinline__ void round(Weights& weights, const Scores& scores) {
#pragma unroll
    for (int depth = 0; depth < kColumns / kWeightDepth; ++depth) {
      round(weights[depth], scores, depth);
    }
  }

  // sums += weights columns, over kWeightDepth of the columns.
  static __device__ __forceinline__ void multiply_columns(Sums& sums,
                                                          const Fragment (&weights)[kRowTiles],
                                                          const T* columns, int depth,
                                                          int first_chunk = 0) {
    if constexpr (kFlavor == Flavor::k16Bit) {
      multiply_columns_16_bit(sums, weights, columns, depth, first_chunk);
    } else {
#pragma unroll
      for (int part = 0; part < kSumDim / 32; ++part) {
        multiply_part(sums, part * 4, weights, columns, depth, first_chunk + part * 8);
      }
    }
  }

  // sums += weights columns, over all columns.
  static __device__ __forceinline__ void sum_columns(Sums& sums, const Weights& weights,
                                                     const T* columns, int first_chunk = 0) {
    if constexpr (kAddsTiles) {
      add_columns(sums, weights, columns, first_chunk);
    } else {
#pragma unroll
      for (int depth = 0; depth < kColumns / kWeightDepth; ++depth) {
        multiply_columns(sums, weights[depth], columns, depth, first_chunk);
      }
    }
  }

  // Calls `take(channel, sum)` for a thread's sums of one row tile's half row.
  template <typename Take>
  static __device__ __forceinline__ void each_sum(const float (&sums)[kSumDim / 8][4], int half,
                                                  int first_chunk, const Take& take) {
    const int lane = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < kSumDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // See multiply_part: tile n of float32 holds every fourth channel of 32.
        const int channel = kFlavor == Flavor::k16Bit
                                ? (first_chunk + n) * 8 + lane * 2 + i
                                : (first_chunk + n / 4 * 8 + lane * 2 + i) * 4 + n % 4;
        take(channel, sums[n][2 * half + i]);
      }
    }
  }

  // One row tile's half row of sums, times a factor, into rows of shared memory.
  static __device__ __forceinline__ void lay_row(T* rows, int row,
                                                 const float (&sums)[kSumDim / 8][4], int half,
                                                 float factor, int first_chunk = 0) {
    char* memory = reinterpret_cast<char*>(rows);
    if constexpr (kFlavor == Flavor::k16Bit) {
      const int lane = threadIdx.x % 4;
#pragma unroll
      for (int n = 0; n < kSumDim / 8; ++n) {
        const float left = sums[n][2 * half] * factor, right = sums[n][2 * half + 1] * factor;
        *reinterpret_cast<unsigned*>(memory + Rows::offset(row, first_chunk + n) + lane * 4) =
            pack<T>(left, right);
      }
    } else {
      // See multiply_part: four tiles have the channels of a chunk.
      const int lane = ptx::lane_id() % 4;
#pragma unroll
      for (int n = 0; n < kSumDim / 8; n += 4) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int element = 2 * half + i, chunk = first_chunk + n / 4 * 8 + lane * 2 + i;
          *reinterpret_cast<float4*>(memory + Rows::offset(row, chunk)) =
              make_float4(sums[n][element] * factor, sums[n + 1][element] * factor,
                          sums[n + 2][element] * factor, sums[n + 3][element] * factor);
        }
      }
    }
  }

 private:
  // Products of fragments that make one, the small ones first.
  static constexpr int kTerms = kFlavor == Flavor::k3xTf32 ? 3 : 1;
  // A warp waits where a product needs the sums of the one before. So products of 3xTF32 take turns
  // over so many pairs of tiles, and where there is one pair, small ones have sums of their own.
  static constexpr int kTogether = kTerms == 1 || kColumns < 32 ? 1 : 2;
  static constexpr int kApart = kTerms > 1 && kColumns* kRowTiles < 32 ? kTerms - 1 : 0;

  static __device__ __forceinline__ void add(Scores& scores, const Scores& part) {
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
      for (int pair = 0; pair < kColumns / 8; ++pair) {
#pragma unroll
        for (int i = 0; i < 4; ++i) scores[row_tile][pair][i] += part[row_tile][pair][i];
      }
    }
  }

  // The channels of `count` fragments.
  template <bool kIsApart, typename Load>
  static __device__ __forceinline__ void multiply_rows(Scores& scores, const T* columns,
                                                       const Load& load, int begin, int count) {
    const int lane = kIsApart ? ptx::lane_id() : thread() % 32;
    // Columns 0-7 and 8-15 of each sixteen, with the lower and the upper chunk.
    const unsigned place = address(columns, lane / 16 * 8 + lane % 8, lane / 8 % 2);
    Scores apart[kApart > 0 ? kApart : 1] = {};
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int depth = begin + i;
      Fragment rows[kRowTiles];
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        load(rows[row_tile], row_tile, depth);
      }
#pragma unroll
      for (int pair = 0; pair < kColumns / 16; pair += kTogether) {
        Operand<kFlavor, 4> right[kTogether];
#pragma unroll
        for (int j = 0; j < kTogether; ++j) {
          Fragment both;
          ptx::ldmatrix_x4(both, Rows::moved(place, depth * 2) + (pair + j) * 16 * kRowBytes);
          right[j] = Operand<kFlavor, 4>(both);
        }
#pragma unroll
        for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
          const Operand<kFlavor, 4> left(rows[row_tile]);
#pragma unroll
          for (int term = 0; term < kTerms; ++term) {
            Scores& sums = term < kApart ? apart[term] : scores;
#pragma unroll
            for (int j = 0; j < kTogether; ++j) {
              multiply(sums[row_tile][2 * (pair + j)], left, right[j], 0, term);
              multiply(sums[row_tile][2 * (pair + j) + 1], left, right[j], 2, term);
            }
          }
        }
      }
    }
#pragma unroll
    for (int term = 0; term < kApart; ++term) {
      add(scores, apart[term]);
    }
  }

  // Registers are too short to keep the addresses of many channels from one product to the next.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr bool kKeepsAddresses = kHeadDim <= 64;
#else
  static constexpr bool kKeepsAddresses =
      kHeadDim <= 64 || (kFlavor != Flavor::k3xTf32 && kSumDim == kHeadDim);
#endif

  static __device__ __forceinline__ unsigned thread() {
    return kKeepsAddresses ? threadIdx.x : ptx::computed_here(threadIdx.x);
  }

  // sums += weights columns, over all columns, whose sums are added by ordinary additions.
  static __device__ __forceinline__ void add_columns(Sums& sums, const Weights& weights,
                                                     const T* columns, int first_chunk) {
#pragma unroll
    for (int part = 0; part < kSumDim / 32; ++part) {
      float of_tile[kRowTiles][4][4] = {};
#pragma unroll
      for (int depth = 0; depth < kColumns / kWeightDepth; ++depth) {
        multiply_part(of_tile, 0, weights[depth], columns, depth, first_chunk + part * 8);
      }
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sums[row_tile][part * 4 + n][i] += of_tile[row_tile][n][i];
        }
      }
    }
  }

  // d += a b, or one of the terms of it.
  template <int kRegisters>
  static __device__ __forceinline__ void multiply(float (&d)[4], const Operand<kFlavor, 4>& a,
                                                  const Operand<kFlavor, kRegisters>& b, int i,
                                                  int term = 0) {
    if constexpr (kFlavor == Flavor::k16Bit) {
      ptx::mma_m16n8k16<T>(d, a.large, b.large[i], b.large[i + 1]);
    } else if constexpr (kFlavor == Flavor::kTf32) {
      ptx::mma_m16n8k8_tf32(d, a.large, b.large[i], b.large[i + 1]);
    } else {
      const unsigned (&left)[4] = term == 0 ? a.small : a.large;
      const unsigned (&right)[kRegisters] = term == 1 ? b.small : b.large;
      ptx::mma_m16n8k8_tf32(d, left, right[i], right[i + 1]);
    }
  }

  static __device__ __forceinline__ void multiply_columns_16_bit(
      Sums& sums, const Fragment (&weights)[kRowTiles], const T* columns, int depth,
      int first_chunk) {
    const int lane = thread() % 32;
    const unsigned place = address(columns, lane % 16, first_chunk + lane / 16);
#pragma unroll
    for (int pair = 0; pair < kSumDim / 16; ++pair) {
      Fragment both;
      ptx::ldmatrix_x4_trans(both, Rows::moved(place, pair * 2) + depth * 16 * kRowBytes);
      const Operand<kFlavor, 4> right(both);
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
        const Operand<kFlavor, 4> left(weights[row_tile]);
        multiply(sums[row_tile][2 * pair], left, right, 0);
        multiply(sums[row_tile][2 * pair + 1], left, right, 2);
      }
    }
  }

  // Sums of 32 channels, from tile `first` of the sums on. An accumulator's two columns are slots
  // lane % 4 and lane % 4 + 4 of the product's depth, so that no weight changes its thread. A
  // thread reads 16 bytes of a column: of the four tiles that they go to, tile n has channels n, 4
  // + n, ...
  template <int kTiles>
  static __device__ __forceinline__ void multiply_part(float (&sums)[kRowTiles][kTiles][4],
                                                       int first,
                                                       const Fragment (&weights)[kRowTiles],
                                                       const T* columns, int depth,
                                                       int first_chunk) {
    const int lane = threadIdx.x % 32, column = depth * 8 + lane % 4 * 2;
    const int chunk = first_chunk + lane / 4;
    const char* memory = reinterpret_cast<const char*>(columns);
    const float4 even = *reinterpret_cast<const float4*>(memory + Rows::offset(column, chunk));
    const float4 odd = *reinterpret_cast<const float4*>(memory + Rows::offset(column + 1, chunk));
    const float values[4][2] = {{even.x, odd.x}, {even.y, odd.y}, {even.z, odd.z}, {even.w, odd.w}};
    Operand<kFlavor, 2> right[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const unsigned raw[2] = {__float_as_uint(values[n][0]), __float_as_uint(values[n][1])};
      right[n] = Operand<kFlavor, 2>(raw);
    }
#pragma unroll
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
      const Operand<kFlavor, 4> left(weights[row_tile]);
#pragma unroll
      for (int term = 0; term < kTerms; ++term) {
#pragma unroll
        for (int n = 0; n < 4; ++n) multiply(sums[row_tile][first + n], left, right[n], 0, term);
      }
    }
  }
};

}  // namespace cupyna
