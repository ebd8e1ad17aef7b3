// Products of fragments for each element type, with gathered rows and gathered elements.
//
// Sums have the same owners for every type: of a tile of 8 columns, lane l has rows l / 4 and
// l / 4 + 8, columns 2 (l % 4) and the next. So have elements of a left factor that lanes fetch
// one by one; the order in which columns enter an instruction is chosen for that.
#pragma once

#include "../../common/numeric.cuh"
#include "../../ptx/mma_float64_sm80.cuh"
#include "../../ptx/mma_sm80.cuh"
#include "../../ptx/shared_memory.cuh"

namespace cupyna {

// Tiles of eight columns of a chunk: as many as there are registers for.
template <typename T>
constexpr int kChunkTiles = sizeof(T) == 2 ? 8 : 4;

// Tiles of eight channels that share their channels: of so many, tile j has channel j of each group
// of so many. A lane loads its elements of float32 of all of them as one vector, and has neighbors
// to store.
template <typename T>
constexpr int kSharingTiles = sizeof(T) == 4 ? 4 : 1;

// Products of 16 rows and a chunk of columns; a lane's share.
template <typename T>
using GemmChunk = Wide<T>[kChunkTiles<T>][4];

// Calls `work` with the number of tiles that are there as a constant: all of them or half.
// Branches between products would keep loads from overlapping them.
template <int kTiles>
struct Tiles {
  static constexpr int kCount = kTiles;
};

template <int kTiles, typename Work>
__device__ __forceinline__ void with_tiles(int tiles, const Work& work) {
  if (tiles > kTiles / 2) {
    work(Tiles<kTiles>());
  } else {
    work(Tiles<kTiles / 2>());
  }
}

// TF32 keeps 10 bits of a mantissa; products ignore what stands below. Integers round a float32 to
// the nearest: the instruction that converts is much slower.
struct Tf32 {
  static constexpr unsigned kKept = 0xffffe000u;

  static __device__ __forceinline__ unsigned rounded(unsigned bits) { return bits + 0x1000u; }
  static __device__ __forceinline__ unsigned big(unsigned bits) { return rounded(bits) & kKept; }
  // What is left of a number beside its big part. Products cut it off: at 2^-21 of the number on
  // either side of zero, if the big part is rounded, else at 2^-20 towards zero.
  static __device__ __forceinline__ unsigned small(unsigned bits, unsigned big) {
    return __float_as_uint(__uint_as_float(bits) - __uint_as_float(big));
  }
};

// How a launch multiplies float32.
struct Float32Way {
  bool is_precise;  // whether what TF32 cuts off is multiplied, too
  unsigned kept;    // Tf32::kKept

  // A compiler that knows which bits are kept leaves in those that products ignore, and has to move
  // what is loaded in vectors to the registers where products want it.
  static __device__ __forceinline__ Float32Way of(int is_precise) {
    return Float32Way{is_precise != 0, 0u - (unsigned(is_precise) << 13)};
  }
};

// A lane's elements of 16 rows and 16 columns, as sums own them: of two tiles of eight columns row
// l / 4, columns 2 (l % 4) and the next, then row l / 4 + 8.
template <typename T>
struct FragmentBlock {
  // Whole vectors: elements taken apart and put together again would cost instructions.
  uint4 vectors[sizeof(T) / 2];

  // Column `i` of four: 2 (l % 4), the next, and those eight further on.
  __device__ __forceinline__ T& at(int half, int i) {
    return reinterpret_cast<T*>(vectors)[i / 2 * 4 + half * 2 + i % 2];
  }
  __device__ __forceinline__ const T& at(int half, int i) const {
    return reinterpret_cast<const T*>(vectors)[i / 2 * 4 + half * 2 + i % 2];
  }
};

// 16-bit elements, and float32 by TF32.
template <typename T>
struct GemmProducts {
  static constexpr bool kIsWide = sizeof(T) == 4;

  // sums += A B^T: 16 rows of A from `own` on, and the rows of a slab that the chunk names. Rows
  // of both hold `bytes` bytes; the first kCount tiles of columns are there. kSteps steps along the
  // rows are one piece of code, where registers allow that.
  template <int kCount, int kSteps, typename Row>
  static __device__ __forceinline__ void multiply_rows(float (&sums)[kChunkTiles<T>][4],
                                                       const char* own, const char* slab, int pitch,
                                                       int bytes, const Row* rows, Float32Way way) {
    if (!kIsWide || way.is_precise) {
      add_rows<kCount, kSteps, true>(sums, own, slab, pitch, bytes, rows, way.kept);
    } else {
      add_rows<kCount, kSteps, false>(sums, own, slab, pitch, bytes, rows, way.kept);
    }
  }

  // sums += A B: fetched elements of 16 columns, and the slab's rows that these name. The first
  // kCount tiles of eight channels are there, kSharing of which share channels. Of float32,
  // kTogether are multiplied at a time.
  template <int kCount, int kSharing = kSharingTiles<T>, int kTogether = 4, int kTiles,
            typename Row>
  static __device__ __forceinline__ void multiply_block(float (&sums)[kTiles][4],
                                                        const FragmentBlock<T>& block,
                                                        const char* slab, int pitch,
                                                        const Row* rows, Float32Way way) {
    if (!kIsWide || way.is_precise) {
      add_block<kCount, kSharing, kTogether, true>(sums, block, slab, pitch, rows, way.kept);
    } else {
      add_block<kCount, kSharing, kTogether, false>(sums, block, slab, pitch, rows, way.kept);
    }
  }

 private:
  template <int kCount, int kSteps, bool kIsPrecise, typename Row>
  static __device__ __forceinline__ void add_rows(float (&sums)[kChunkTiles<T>][4], const char* own,
                                                  const char* slab, int pitch, int bytes,
                                                  const Row* rows, unsigned kept) {
    const int lane = threadIdx.x % 32;
    const unsigned left = ptx::shared_address(own) + lane % 16 * pitch + lane / 16 * 16;
    unsigned right[kCount / 2];
#pragma unroll
    for (int pair = 0; pair < kCount / 2; ++pair) {
      const int row = rows[pair * 16 + lane / 16 * 8 + lane % 8];
      right[pair] = ptx::shared_address(slab) + row * pitch + lane / 8 % 2 * 16;
    }
    if constexpr (kIsWide) {
      constexpr int kPairs = kCount < 4 ? 1 : 2;
#pragma unroll 1
      for (int at = 0; at < bytes; at += 64) {
        unsigned big[2][4], small[2][4];
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          unsigned a[4];
          ptx::ldmatrix_x4(a, left + at + step * 32);
          split(a, big[step], small[step]);
        }
#pragma unroll
        for (int first = 0; first < kCount; first += 2 * kPairs) {
          unsigned right_factor[2 * kPairs][4];
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
            for (int step = 0; step < 2; ++step) {
              unsigned b[4];
              ptx::ldmatrix_x4(b, right[first / 2 + pair] + at + step * 32);
              right_factor[2 * pair][2 * step] = b[0];
              right_factor[2 * pair][2 * step + 1] = b[1];
              right_factor[2 * pair + 1][2 * step] = b[2];
              right_factor[2 * pair + 1][2 * step + 1] = b[3];
            }
          }
          multiply_tf32<kIsPrecise>(&sums[first], big, small, right_factor, kept);
        }
      }
    } else {
#pragma unroll kSteps
      for (int at = 0; at < bytes; at += 32) {
        unsigned a[4];
        ptx::ldmatrix_x4(a, left + at);
#pragma unroll
        for (int pair = 0; pair < kCount / 2; ++pair) {
          unsigned b[4];
          ptx::ldmatrix_x4(b, right[pair] + at);
          ptx::mma_m16n8k16<T>(sums[2 * pair], a, b[0], b[1]);
          ptx::mma_m16n8k16<T>(sums[2 * pair + 1], a, b[2], b[3]);
        }
      }
    }
  }

  template <int kCount, int kSharing, int kTogether, bool kIsPrecise, int kTiles, typename Row>
  static __device__ __forceinline__ void add_block(float (&sums)[kTiles][4],
                                                   const FragmentBlock<T>& block, const char* slab,
                                                   int pitch, const Row* rows, unsigned kept) {
    const int lane = threadIdx.x % 32;
    if constexpr (kIsWide) {
      unsigned right[4];
      unsigned big[2][4], small[2][4];
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        unsigned a[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = __float_as_uint(block.at(i % 2, 2 * step + i / 2));
        split(a, big[step], small[step]);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = rows[step * 8 + lane % 4 * 2 + i];
          right[step * 2 + i] = ptx::shared_address(slab) + row * pitch + lane / 4 * 4 * kSharing;
        }
      }
      static_assert(kCount % kTogether == 0 && kTogether % kSharing == 0, "tiles come in groups");
#pragma unroll
      for (int n = 0; n < kCount; n += kTogether) {
        // Few are together where registers are few: no load may come earlier than it must.
        if constexpr (kTogether < 4) __syncwarp();
        unsigned right_factor[kTogether][4];
#pragma unroll
        for (int first = 0; first < kTogether; first += kSharing) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            unsigned words[kSharing];
            ptx::load_shared(words, right[j] + (n + first) * 32);
#pragma unroll
            for (int i = 0; i < kSharing; ++i) right_factor[first + i][j] = words[i];
          }
        }
        multiply_tf32<kIsPrecise>(&sums[n], big, small, right_factor, kept);
      }
    } else {
      const unsigned right = ptx::shared_address(slab) + rows[lane % 16] * pitch + lane / 16 * 16;
      const uint4 words = block.vectors[0];
      const unsigned a[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int pair = 0; pair < kCount / 2; ++pair) {
        unsigned b[4];
        ptx::ldmatrix_x4_trans(b, right + pair * 32);
        ptx::mma_m16n8k16<T>(sums[2 * pair], a, b[0], b[1]);
        ptx::mma_m16n8k16<T>(sums[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }

  static __device__ __forceinline__ void split(const unsigned (&a)[4], unsigned (&big)[4],
                                               unsigned (&small)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      big[i] = Tf32::big(a[i]);
      small[i] = Tf32::small(a[i], big[i]);
    }
  }

  // kCount tiles, two steps of eight each. What TF32 rounds away of either factor meets the other
  // one; both parts of it are too small. Products of different tiles take turns: one waits long
  // for the sums of the one before it.
  template <bool kIsPrecise, int kCount>
  static __device__ __forceinline__ void multiply_tf32(float (*sums)[4],
                                                       const unsigned (&big)[2][4],
                                                       const unsigned (&small)[2][4],
                                                       const unsigned (&b)[kCount][4],
                                                       unsigned kept) {
    if constexpr (!kIsPrecise) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int n = 0; n < kCount; ++n) {
          ptx::mma_m16n8k8_tf32(sums[n], big[step], Tf32::rounded(b[n][2 * step]),
                                Tf32::rounded(b[n][2 * step + 1]));
        }
      }
      return;
    }
    // Tensor cores cut their sums off, always towards zero: long sums are rounded outside.
    float part[kCount][4] = {};
    unsigned upper[kCount][4];
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
#pragma unroll
        for (int i = 2 * step; i < 2 * step + 2; ++i) upper[n][i] = b[n][i] & kept;
        ptx::mma_m16n8k8_tf32(part[n], big[step], Tf32::small(b[n][2 * step], upper[n][2 * step]),
                              Tf32::small(b[n][2 * step + 1], upper[n][2 * step + 1]));
      }
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        ptx::mma_m16n8k8_tf32(part[n], small[step], upper[n][2 * step], upper[n][2 * step + 1]);
      }
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        ptx::mma_m16n8k8_tf32(part[n], big[step], upper[n][2 * step], upper[n][2 * step + 1]);
      }
    }
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] += part[n][i];
    }
  }
};

template <>
struct GemmProducts<double> {
  template <int kCount, int kSteps, typename Row>
  static __device__ __forceinline__ void multiply_rows(double (&sums)[kChunkTiles<double>][4],
                                                       const char* own, const char* slab, int pitch,
                                                       int bytes, const Row* rows, Float32Way) {
    const int lane = threadIdx.x % 32;
    const char* left = own + lane / 4 * pitch + lane % 4 * 8;
    int right[kCount];
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      right[n] = rows[n * 8 + lane / 4] * pitch + lane % 4 * 8;
    }
#pragma unroll 1
    for (int at = 0; at < bytes; at += 32) {
      const double upper = *reinterpret_cast<const double*>(left + at);
      const double lower = *reinterpret_cast<const double*>(left + 8 * pitch + at);
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        const double b = *reinterpret_cast<const double*>(slab + right[n] + at);
        ptx::mma_m8n8k4(sums[n][0], sums[n][1], upper, b);
        ptx::mma_m8n8k4(sums[n][2], sums[n][3], lower, b);
      }
    }
  }

  template <int kCount, int kSharing = 1, int kTogether = 4, int kTiles, typename Row>
  static __device__ __forceinline__ void multiply_block(double (&sums)[kTiles][4],
                                                        const FragmentBlock<double>& block,
                                                        const char* slab, int pitch,
                                                        const Row* rows, Float32Way) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const int column = step / 2 * 8 + lane % 4 * 2 + step % 2;
      const double* right = reinterpret_cast<const double*>(slab + rows[column] * pitch) + lane / 4;
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
        ptx::mma_m8n8k4(sums[n][0], sums[n][1], block.at(0, step), right[n * 8]);
        ptx::mma_m8n8k4(sums[n][2], sums[n][3], block.at(1, step), right[n * 8]);
      }
    }
  }
};

}  // namespace cupyna
