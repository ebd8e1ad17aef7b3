// Rows of 16-byte chunks in shared memory, permuted so that eight rows of one column of chunks lie
// in different banks: what ldmatrix reads at once.
#pragma once

namespace cupyna {

template <int kRowBytes>
struct Swizzle {
  static constexpr int kChunks = kRowBytes / 16;
  // Rows shorter than the 128 bytes of all banks share them: the next rows take other chunks.
  static constexpr int kRowsPerLine = kChunks >= 8 ? 1 : 8 / kChunks;
  static constexpr int kMask = kChunks >= 8 ? 7 : kChunks - 1;

  // Byte offset of a chunk of a row.
  static __device__ __forceinline__ int offset(int row, int chunk) {
    return row * kRowBytes + (chunk ^ ((row / kRowsPerLine) & kMask)) * 16;
  }
};

}  // namespace cupyna
