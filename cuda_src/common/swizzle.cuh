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

  // Where chunk `first + chunks` of a row lies, by the address of chunk `first`: one instruction
  // for each `chunks`. Rows begin at multiples of 128 bytes, and the two numbers have no bit in
  // common.
  static __device__ __forceinline__ unsigned moved(unsigned address, int chunks) {
    return (address ^ ((chunks & kMask) * 16)) + (chunks & ~kMask) * 16;
  }
};

}  // namespace cupyna
