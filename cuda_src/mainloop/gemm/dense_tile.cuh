// A tile whose weights wait between two kernels as fragments of tensor core products, with zeros
// outside of windows: nothing is selected or scattered.
//
// Which of its warp's rows see a column is a word with a bit for each row. It is a product of axes:
// a word for each position of the warp's box along each axis is laid down once for all planes.
#pragma once

#include "tile.cuh"

namespace cupyna {

template <typename T>
struct GemmDenseTile : GemmTile<T> {
  using Base = GemmTile<T>;
  using Base::kChunk;
  using Base::params, Base::warp, Base::lane, Base::side, Base::kWarps, Base::kWarpRows;
  // Columns that are laid at a time, and positions whose words are kept.
  static constexpr int kColumns = 256;
  static constexpr int kPositions = 192;
  static constexpr int kGroups = kChunk / 16;  // fragments of a chunk
  static constexpr unsigned kAllRows = (1u << kWarpRows) - 1;

  struct Shared : Base::Shared {
    unsigned short seen_along[kWarps][kPositions];
    // Of each column: which rows see it, and its row of the slab.
    alignas(16) unsigned short seen[kWarps][kColumns];
    alignas(16) unsigned short rows[kWarps][kColumns];
  };

  Shared& shared;
  int laid = -1;            // first column that is laid, of the part at hand
  unsigned dense_runs = 0;  // bits of 32 columns that all rows see, from `laid` on

  __device__ GemmDenseTile(const GemmParams& params, Shared& shared, Side side)
      : Base(params, shared, side, false), shared(shared) {}

  __device__ __forceinline__ void place() {
    Base::place();
    const Window& any = shared.any[warp];
    const int y_words = any.x.end - any.x.begin, z_words = y_words + any.y.end - any.y.begin;
    const int words = z_words + any.z.end - any.z.begin;
    if (words > kPositions || !Base::has_rows) return;
    for (int i = lane; i < words; i += 32) {
      unsigned word;
      if (i < y_words) {
        word = seen_along(0, any.x.begin + i);
      } else if (i < z_words) {
        word = seen_along(1, any.y.begin + i - y_words);
      } else {
        word = seen_along(2, any.z.begin + i - z_words);
      }
      shared.seen_along[warp][i] = static_cast<unsigned short>(word);
    }
    __syncwarp();
  }

  // Fragments and maxima of this warp in one plane of the grid, and the chunks before it.
  __device__ __forceinline__ long long warp_of_plane(int of_head) const {
    const long long tiles =
        1ll * params.tile[0].tiles * params.tile[1].tiles * params.tile[2].tiles;
    return (1ll * (Base::batch * params.heads + of_head) * tiles + shared.tile) * kWarps + warp;
  }
  __device__ __forceinline__ char* fragments_of(const Array& array, int of_head) const {
    constexpr int kBytes = kGroups * 32 * int(sizeof(FragmentBlock<T>));
    return static_cast<char*>(array.data) + warp_of_plane(of_head) * params.chunks * kBytes;
  }
  __device__ __forceinline__ Wide<T>* maxima_of(int of_head) const {
    return static_cast<Wide<T>*>(params.maxima) +
           warp_of_plane(of_head) * (params.chunks + 1) * kWarpRows;
  }

  // A new part, unless the box has one for all planes.
  __device__ __forceinline__ void begin_part() {
    if (params.stages > 1) laid = -1;
  }

  // Where the tables have the chunk that begins with column `first`.
  __device__ __forceinline__ int lay_columns(const Part& part, const Window& slab, int first) {
    if (laid < 0 || first < laid || first >= laid + kColumns) lay(part, slab, first);
    return first - laid;
  }

  // Whether all rows see `count` columns of the tables from `at` on.
  template <int kCount>
  __device__ __forceinline__ bool is_dense(int at) const {
    constexpr unsigned kRuns = (1u << (kCount + 31) / 32) - 1;
    return (dense_runs >> at / 32 & kRuns) == kRuns;
  }

  // A lane's tests of the columns 2 (l % 4) and the next: bits 0 and 16 for row l / 4, bits 8 and
  // 24 for row l / 4 + 8.
  __device__ __forceinline__ unsigned seen_by_lane(int column) const {
    return *reinterpret_cast<const unsigned*>(&shared.seen[warp][column + lane % 4 * 2]) >>
           lane / 4;
  }

 private:
  // Bits of the warp's rows that see a position along an axis: an interval of its positions there,
  // at every place along the other axes.
  __device__ __forceinline__ unsigned seen_along(int axis, int at) const {
    const Line& line = shared.line[axis];
    const Interval seen_by = side == Side::kQuery ? queries_of(line, at) : window_of(line, at);
    const Coordinate own = Base::origin_of_warp();
    const int begin = axis == 0 ? own.x : axis == 1 ? own.y : own.z;
    const int extent_log2 = params.tile[axis].warp_log2;
    int shift = 0;
    for (int i = axis + 1; i < kAxes; ++i) shift += params.tile[i].warp_log2;
    const int extent = 1 << extent_log2;
    const int low = min_of(max_of(seen_by.begin - begin, 0), extent);
    const int high = min_of(max_of(seen_by.end - begin, low), extent);
    unsigned bits = (1u << (high << shift)) - (1u << (low << shift));
    for (int span = extent << shift; span < kWarpRows; span *= 2) bits |= bits << span;
    return bits;
  }

  __device__ __forceinline__ unsigned seen_of(const Coordinate& at) const {
    const Window& any = shared.any[warp];
    const int y_words = any.x.end - any.x.begin, z_words = y_words + any.y.end - any.y.begin;
    if (z_words + any.z.end - any.z.begin > kPositions) {
      return seen_along(0, at.x) & seen_along(1, at.y) & seen_along(2, at.z);
    }
    const unsigned short* words = shared.seen_along[warp];
    return words[at.x - any.x.begin] & words[y_words + at.y - any.y.begin] &
           words[z_words + at.z - any.z.begin];
  }

  __device__ __forceinline__ void lay(const Part& part, const Window& slab, int first) {
    const int y = slab.y.end - slab.y.begin, z = slab.z.end - slab.z.begin;
    const int columns = part.columns();
    const int count = min_of((columns - first + kChunk - 1) / kChunk * kChunk, kColumns);
    laid = first;
    dense_runs = 0;
    __syncwarp();  // all lanes are done with the columns before
    for (int i = lane; i < count; i += 32) {
      const int column = first + i;
      const bool is_there = column < columns;
      // Padding names a row that is there: its numbers are finite, and nothing sees them.
      const Coordinate in = part.at(is_there ? column : 0);
      const Coordinate at{part.origin.x + in.x, part.origin.y + in.y, part.origin.z + in.z};
      const unsigned seen = is_there ? seen_of(at) : 0;
      shared.seen[warp][i] = static_cast<unsigned short>(seen);
      shared.rows[warp][i] = static_cast<unsigned short>(
          ((at.x - slab.x.begin) * y + at.y - slab.y.begin) * z + at.z - slab.z.begin);
      if (__all_sync(0xffffffffu, seen == kAllRows)) dense_runs |= 1u << i / 32;
    }
    __syncwarp();
  }
};

// Moves the fragments of one group of 16 columns; lanes are neighbors in memory.
template <typename T>
__device__ __forceinline__ void store_block(char* chunk, int group, const FragmentBlock<T>& block) {
  constexpr int kVectors = sizeof(FragmentBlock<T>) / 16;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    reinterpret_cast<uint4*>(chunk)[(group * kVectors + i) * 32 + threadIdx.x % 32] =
        reinterpret_cast<const uint4*>(&block)[i];
  }
}

template <typename T>
__device__ __forceinline__ FragmentBlock<T> load_block(const char* chunk, int group) {
  constexpr int kVectors = sizeof(FragmentBlock<T>) / 16;
  FragmentBlock<T> block;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    reinterpret_cast<uint4*>(&block)[i] = __ldg(reinterpret_cast<const uint4*>(chunk) +
                                                (group * kVectors + i) * 32 + threadIdx.x % 32);
  }
  return block;
}

// The sums of two tiles of eight columns as a block of a left factor.
template <typename T>
__device__ __forceinline__ FragmentBlock<T> block_of(const Wide<T> (&low)[4],
                                                     const Wide<T> (&high)[4]) {
  FragmentBlock<T> block;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    block.element[i] = narrow<T>(low[i]);
    block.element[4 + i] = narrow<T>(high[i]);
  }
  return block;
}

}  // namespace cupyna
