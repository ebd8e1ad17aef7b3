// Rows of weights between global memory, where they are compact, and the columns of a chunk.
//
// A chunk's columns meet an interval of the slots of every row, at most as many as there are
// columns. The interval is moved as a whole, in 16-byte vectors where rows allow that; columns pick
// their slots from shared memory. Intervals of one row follow each other from chunk to chunk, and
// begin inside vectors: a vector that is not complete is carried on.
#pragma once

#include "../../common/numeric.cuh"
#include "../../geometry/slots.cuh"
#include "../../ptx/shared_memory.cuh"

namespace cupyna {

template <typename T, int kChunk>
struct GemmStage {
  static constexpr int kRows = 16;
  static constexpr int kVector = 16 / int(sizeof(T));
  static constexpr int kPitch = kChunk + kVector;
  static constexpr int kElements = kRows * kPitch;

  // Two lanes share a row: lane / 2 of the warp's.
  T* const buffer;
  const int lane;
  T* const row;             // slot 0
  const long long& stride;  // a parameter of the launch
  const bool is_real, is_vector;
  int begin = 0;  // slot at the buffer's begin

  __device__ GemmStage(T* buffer, T* row, const long long& stride, bool is_real, bool is_vector)
      : buffer(buffer),
        lane(threadIdx.x % 32),
        row(row),
        stride(stride),
        is_real(is_real),
        is_vector(is_vector) {}

  // Whole vectors before a slot.
  __device__ __forceinline__ int vectors_before(int slot) const {
    return is_vector ? slot & ~(kVector - 1) : slot;
  }

  // Index in the buffer of slot 0 of row l / 4 or l / 4 + 8.
  __device__ __forceinline__ int base_of(int half) const {
    const int of = lane / 4 + half * 8;
    return of * kPitch - __shfl_sync(0xffffffffu, begin, 2 * of);
  }

  // Asks for slots [first, past) of each row, for one of two buffers.
  __device__ __forceinline__ void read(int turn, int first, int past) {
    begin = vectors_before(first);
    const int end = min_of(past, begin + kPitch);
    T* const to = buffer + turn * kElements;
    if (is_vector) {
      T* target = to + lane / 2 * kPitch;
      for (int slot = begin + lane % 2 * kVector; slot < end; slot += 2 * kVector) {
        ptx::copy_async_16(ptx::shared_address(target + slot - begin), row + slot, 16);
      }
      return;
    }
    for (int i = 0; i < kRows; ++i) {
      const Piece piece = piece_of(i, end);
      for (int slot = piece.begin + lane; slot < piece.end; slot += 32) {
        to[i * kPitch + slot - piece.begin] = piece.row[slot * stride];
      }
    }
  }

  // Writes whole vectors before slot `past` and carries on what is left of them. Where slots
  // without a key are to hold `empty`, the buffer is filled with it again.
  __device__ __forceinline__ void write(int past, bool fills, T empty) {
    __syncwarp();  // all lanes have left their elements
    const int next = vectors_before(past);
    const bool carries = is_vector && next < begin + kPitch;
    if (is_vector) {
      T* own = buffer + lane / 2 * kPitch;
      const int end = min_of(next, begin + kPitch);
      if (is_real) {
        for (int slot = begin + lane % 2 * kVector; slot < end; slot += 2 * kVector) {
          *reinterpret_cast<uint4*>(row + slot) =
              *reinterpret_cast<const uint4*>(own + slot - begin);
        }
      }
      __syncwarp();
      if (lane % 2 == 0 && next > begin && carries) {
        *reinterpret_cast<uint4*>(own) = *reinterpret_cast<const uint4*>(own + next - begin);
      }
    } else {
      const int end = min_of(next, begin + kPitch);
      for (int i = 0; i < kRows; ++i) {
        const Piece piece = piece_of(i, end);
        if (!__shfl_sync(0xffffffffu, is_real, 2 * i)) continue;
        for (int slot = piece.begin + lane; slot < piece.end; slot += 32) {
          piece.row[slot * stride] = buffer[i * kPitch + slot - piece.begin];
        }
      }
    }
    begin = next;
    __syncwarp();
    if (fills) clear(carries ? kVector : 0, empty);
  }

  // Writes the vector that the last chunk left incomplete.
  __device__ __forceinline__ void finish(int past) {
    if (is_real && past > begin && lane % 2 == 0) {
      *reinterpret_cast<uint4*>(row + begin) =
          *reinterpret_cast<const uint4*>(buffer + lane / 2 * kPitch);
    }
  }

  // Fills whole rows, for slots that no column will meet.
  __device__ __forceinline__ void fill(int slots, T value) {
    for (int i = 0; i < kRows; ++i) {
      const Piece piece = piece_of(i, slots);
      if (!__shfl_sync(0xffffffffu, is_real, 2 * i)) continue;
      for (int slot = lane; slot < slots; slot += 32) piece.row[slot * stride] = value;
    }
    clear(0, value);
  }

  // Fills the buffer from element `from` of each row on.
  __device__ __forceinline__ void clear(int from, T value) {
    for (int i = lane % 2 + from; i < kPitch; i += 2) buffer[lane / 2 * kPitch + i] = value;
    __syncwarp();
  }

 private:
  struct Piece {
    T* row;
    int begin, end;
  };

  // A row as all lanes see it.
  __device__ __forceinline__ Piece piece_of(int of, int end) const {
    const unsigned long long address = reinterpret_cast<unsigned long long>(row);
    return Piece{reinterpret_cast<T*>(__shfl_sync(0xffffffffu, address, 2 * of)),
                 __shfl_sync(0xffffffffu, begin, 2 * of), __shfl_sync(0xffffffffu, end, 2 * of)};
  }
};

// The interval of slots of one row that a chunk meets; two lanes share a row.
struct SlotRun {
  const Window* window;
  int first = 0;
  int past = 0;

  // The slots of the columns of a part before column `end`.
  __device__ __forceinline__ void advance(const Slots& slots, const Part& part, int end) {
    first = past;
    const Coordinate last = part.at(min_of(end, part.columns()) - 1);
    past = slots.first_from(*window, Coordinate{part.origin.x + last.x, part.origin.y + last.y,
                                                part.origin.z + last.z + 1});
  }
};

}  // namespace cupyna
