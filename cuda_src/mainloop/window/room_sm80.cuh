// What one block of a small-window kernel keeps in shared memory, and where.
//
// | fixed | tokens | rows, the stages of each warp | offsets | fields | below | lines |
// | tiles of two works | seen of two works |
//
// A token's row is its key, its value, and 16 bytes that nobody reads: an odd number of chunks. The
// pitches of the box are such that slot i lies at row i modulo 8, counted from the corner, so that
// eight neighboring slots lie in different banks wherever the warp's box breaks.
//
// Masks are bits. The table `below` holds, for each coordinate along each axis, which slots lie
// before it; a window is the intersection of three differences of such sets.
#pragma once

#include "../../common/window_params.cuh"
#include "../../geometry/box.cuh"

namespace cupyna {

// The arrays of the rows, those of the columns, and in the pass over keys what backward knows of
// the columns.
struct WindowOperands {
  const Array &first_row, &second_row, &first_column, &second_column;
  const Statistics* statistics;
};

template <typename T, int kHeadDim, int kSlots, Side kSide, int kRowArrays, int kStages>
struct WindowRoomSm80 {
  // Keys at a border are seen by up to half as many more queries than elsewhere: a warp tile whose
  // box is longer than its slots goes through them a second time.
  static constexpr int kPasses = kSide == Side::kKey ? 2 : 1;

  // In backward those of rows that are queries lie in the padding of the rows.
  static constexpr bool kHasRowStatistics = kSide == Side::kQuery && kRowArrays == 2;

  static constexpr int kRows = 16;
  static constexpr int kChunks = kHeadDim / 8;  // of 16 bytes, of a key or a value
  static constexpr int kRowBytes = kHeadDim * 2 + 16;
  static constexpr int kTokenBytes = 2 * kHeadDim * 2 + 16;
  static constexpr int kArrayBytes = kRows * kRowBytes;  // of a warp's rows
  static constexpr int kStageBytes = kRowArrays * kArrayBytes;
  static_assert(kSlots % 16 == 0 && kSlots <= 128, "two bits for each eight slots in a word");

  // Elements from a warp tile's first row to one of its rows, the row's coordinates, and how much
  // later a query's statistics come.
  struct alignas(8) Row {
    long long first, second;
    unsigned field;
    int query;
  };

  // One warp tile, for one head. Its corner counts from the block's first row.
  struct alignas(16) WarpTile {
    long long first, second;  // elements from the begin of the arrays to the first row
    unsigned corner, last;    // first row, and last real one counted from it, packed
    unsigned again;           // columns from the first pass to the second along each axis, packed
    int columns;              // bytes from the box's first token to the first of the tile's
    int head;                 // none where no row of the tile is real
    long long query;          // statistics before those of the first row, a query
  };
  static_assert(sizeof(WarpTile) == 48, "the host knows the size");

  // Where the words begin, in the first block of slots, for what lies before a window's begin and
  // before its end on each axis: two halves of one word, registers are short.
  struct Bounds {
    unsigned words[kAxes];

    // The slots of a block that the window holds along some axes.
    template <int kFirst = 0, int kPast = kAxes>
    __device__ __forceinline__ unsigned bits(const unsigned* below) const {
      unsigned held = 0xffffffffu;
#pragma unroll
      for (int axis = kFirst; axis < kPast; ++axis) {
        held &= below[words[axis] >> 16] & ~below[words[axis] & 0xffffu];
      }
      return held;
    }
  };

  // Where a line of the box along the last axis begins: elements from the box's first token, its
  // place in shared memory and in the statistics, and its coordinates along the first two axes.
  struct LinePlace {
    long long first, second;
    int token, query;
    short x, y;
  };
  static_assert(sizeof(LinePlace) == 32, "the host knows the size");

  struct Work {
    AxisTile own[kAxes];
    Line line[kAxes];
    int head, batch;  // of the keys; the first of the block's heads
  };

  struct Fixed {
    Row rows[kRows];
    Work works[3];  // the current one, the next and the one after it
  };
  static constexpr int kFixedBytes = 1024;
  static_assert(sizeof(Fixed) <= kFixedBytes, "the host knows the size");

  const WindowGrid& window;
  const AttentionParams& params;
  const WindowOperands operands;
  unsigned char* const memory;
  const int warp, warps, lane;

  __device__ WindowRoomSm80(const WindowGrid& window, const AttentionParams& params,
                            const WindowOperands& operands, unsigned char* memory)
      : window(window),
        params(params),
        operands(operands),
        memory(memory),
        warp(threadIdx.x / 32),
        warps(blockDim.x / 32),
        lane(threadIdx.x % 32) {}

  __device__ __forceinline__ unsigned char* tokens() const { return memory + kFixedBytes; }
  __device__ __forceinline__ unsigned char* rows(int stage) const {
    return tokens() + window.box_tokens * kTokenBytes + (kStages * warp + stage) * kStageBytes;
  }
  __device__ __forceinline__ int* offsets() const {
    return reinterpret_cast<int*>(tokens() + window.box_tokens * kTokenBytes +
                                  kStages * warps * kStageBytes);
  }
  __device__ __forceinline__ unsigned* fields() const {
    return reinterpret_cast<unsigned*>(offsets() + window.blocks_of_slots * kSlots);
  }
  __device__ __forceinline__ unsigned* below() const {
    return fields() + window.blocks_of_slots * kSlots;
  }

  __device__ __forceinline__ LinePlace* lines() const {
    const int coordinates =
        window.axis[0].slots + window.axis[1].slots + window.axis[2].slots + kAxes;
    return reinterpret_cast<LinePlace*>(below() + coordinates * window.blocks_of_slots * 4);
  }
  __device__ __forceinline__ int line_count() const {
    return window.axis[0].box * window.axis[1].box * window.heads;
  }
  __device__ __forceinline__ WarpTile* tiles(int side) const {
    return reinterpret_cast<WarpTile*>(lines() + line_count()) + side * warp_tiles();
  }
  // The words of `Bounds` for each position of the block's tile, along one axis after the other.
  __device__ __forceinline__ unsigned* seen(int side) const {
    return reinterpret_cast<unsigned*>(tiles(2)) +
           side * kPasses * (extent(0) + extent(1) + extent(2));
  }
  __device__ __forceinline__ Fixed& fixed() const { return *reinterpret_cast<Fixed*>(memory); }
  __device__ __forceinline__ int extent(int axis) const {
    return window.axis[axis].warp_tiles << window.axis[axis].warp_extent_log2;
  }
  __device__ __forceinline__ int warp_tiles() const {
    return window.axis[0].warp_tiles * window.axis[1].warp_tiles * window.axis[2].warp_tiles *
           window.heads * params.head_group;
  }
};

}  // namespace cupyna
