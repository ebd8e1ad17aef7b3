// Which rows of a warp see which columns of a slab, as tables that are laid once for all planes of
// a tile.
#pragma once

#include "slab.cuh"
#include "tile.cuh"

namespace cupyna {

template <typename T>
struct GemmDenseColumns : GemmTile<T> {
  using Base = GemmTile<T>;
  using Base::kWarps, Base::kWarpRows, Base::kRows, Base::kChunk;
  using Base::params, Base::warp, Base::lane, Base::side;
  // Columns that are laid at a time, positions whose words are kept, and slabs.
  static constexpr int kColumns = 256;
  static constexpr int kPositions = 144;
  static constexpr int kSlabs = 20;
  static constexpr unsigned kAllRows = (1u << kWarpRows) - 1;

  struct Token {
    int x, y, z;
    int is_real;
  };

  using Slab = GemmSlab;
  using Place = GemmPlace;
  using Share = GemmShare;

  struct Shared : Base::Shared {
    Window common[kWarps];  // what all rows of a warp see
    int heads[kWarps];      // that each warp is at
    alignas(16) Token tokens[kRows];
    Place places[kSlabs];  // of the first slabs
    unsigned short shares[kWarps][kSlabs];
    // Which rows of a warp see a position along an axis, for one axis after the other.
    unsigned short seen_along[kWarps][kPositions];
    // Of each column: which rows see it, and its row of the slab.
    alignas(16) unsigned short seen[kWarps][kColumns];
    alignas(16) unsigned short rows[kWarps][kColumns];
  };
  static_assert(sizeof(Shared) <= 7 * 1024, "plans count on so many bytes");

  Shared& shared;
  int origin = 0;           // which of the tables' columns is the slab's first, before them if < 0
  int laid = 0;             // columns of the tables
  unsigned dense_runs = 0;  // bits of 32 of them that all rows see

  __device__ GemmDenseColumns(const GemmParams& params, Shared& shared, Side side)
      : Base(params, shared, side), shared(shared) {}

  // Where the tables have the chunk that begins with column `first`. What they keep of all slabs
  // is laid in their order, in the first plane.
  template <bool kHasMask>
  __device__ __forceinline__ int lay_columns(const Coordinate& slab, int first) {
    if (origin + first >= laid) {
      if (origin + first + kChunk > kColumns) origin = -first;
      lay<kHasMask>(slab, first);
    }
    return origin + first;
  }

  // Whether all rows see `kCount` columns of the tables from `at` on.
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

 protected:
  __device__ __forceinline__ Coordinate box_corner() const {
    return Coordinate{shared.own[0].box_begin, shared.own[1].box_begin, shared.own[2].box_begin};
  }

  static __device__ __forceinline__ int along(const Coordinate& at, int axis) {
    return axis == 0 ? at.x : axis == 1 ? at.y : at.z;
  }
  static __device__ __forceinline__ Interval& along(Window& window, int axis) {
    return axis == 0 ? window.x : axis == 1 ? window.y : window.z;
  }

  // What a warp sees along an axis. Bounds never decrease: the first and the last row tell.
  __device__ __forceinline__ void place_warp(int axis, int first) const {
    const int last = min_of(first + (1 << params.tile[axis].warp_log2), shared.own[axis].end) - 1;
    const Interval upper = Base::partners(axis, first), lower = Base::partners(axis, last);
    along(shared.any[warp], axis) = Interval{upper.begin, lower.end};
    along(shared.common[warp], axis) = Interval{lower.begin, upper.end};
  }

  __device__ __forceinline__ void lay_positions() const {
    if (positions() > kPositions) return;
    const Window& any = shared.any[warp];
    const int x = any.x.end - any.x.begin, y = any.y.end - any.y.begin;
#pragma unroll 1
    for (int i = lane; i < positions(); i += 32) {
      const int axis = i < x ? 0 : i < x + y ? 1 : 2;
      const int at = axis == 0   ? any.x.begin + i
                     : axis == 1 ? any.y.begin + i - x
                                 : any.z.begin + i - x - y;
      shared.seen_along[warp][i] = static_cast<unsigned short>(seen_along(axis, at));
    }
    __syncwarp();
  }

 private:
  // Bits of the warp's rows that see a position along an axis: an interval of its positions there,
  // at every place along the other axes.
  __device__ __forceinline__ unsigned seen_along(int axis, int at) const {
    const Line& line = shared.line[axis];
    const Interval seen_by = side == Side::kQuery ? queries_of(line, at) : window_of(line, at);
    int shift = 0;
    for (int i = kAxes - 1; i > axis; --i) shift += params.tile[i].warp_log2;
    const int begin = along(Base::origin_of_warp(), axis);
    const int extent = 1 << params.tile[axis].warp_log2;
    const int low = min_of(max_of(seen_by.begin - begin, 0), extent);
    const int high = min_of(max_of(seen_by.end - begin, low), extent);
    unsigned bits = (1u << (high << shift)) - (1u << (low << shift));
    for (int span = extent << shift; span < kWarpRows; span *= 2) bits |= bits << span;
    return bits;
  }

  __device__ __forceinline__ int positions() const {
    const Window& any = shared.any[warp];
    return any.x.end - any.x.begin + any.y.end - any.y.begin + any.z.end - any.z.begin;
  }

  __device__ __forceinline__ unsigned seen_of(const Coordinate& at) const {
    const Window& any = shared.any[warp];
    if (positions() > kPositions) {
      // Most positions of long windows are far from any edge.
      unsigned bits = kAllRows;
#pragma unroll 1
      for (int axis = 0; axis < kAxes; ++axis) {
        const int position = along(at, axis);
        if (!along(shared.common[warp], axis).contains(position))
          bits &= seen_along(axis, position);
      }
      return bits;
    }
    const int x = any.x.end - any.x.begin, y = any.y.end - any.y.begin;
    const unsigned short* words = shared.seen_along[warp];
    return words[at.x - any.x.begin] & words[x + at.y - any.y.begin] &
           words[x + y + at.z - any.z.begin];
  }

  template <bool kHasMask>
  __device__ __forceinline__ void lay(const Coordinate& slab_begin, int first) {
    const Window slab = Base::slab_at(slab_begin);
    const Part part(Base::part_of(slab));
    const int y = slab.y.end - slab.y.begin, z = slab.z.end - slab.z.begin;
    const int columns = part.columns();
    const int begin = origin + first;
    const int count = min_of((columns - first + kChunk - 1) / kChunk * kChunk, kColumns - begin);
    laid = begin + count;
    if (begin == 0) dense_runs = 0;
    __syncwarp();  // all lanes are done with the columns before
#pragma unroll 1
    for (int i = begin + lane; i < laid; i += 32) {
      const int column = i - origin;
      const bool is_there = column < columns;
      // Padding names a row that is there: its numbers are finite, and nothing sees them.
      const Coordinate in = part.at(is_there ? column : 0);
      const Coordinate at{part.origin.x + in.x, part.origin.y + in.y, part.origin.z + in.z};
      shared.rows[warp][i] = static_cast<unsigned short>(
          ((at.x - slab.x.begin) * y + at.y - slab.y.begin) * z + at.z - slab.z.begin);
      if constexpr (kHasMask) {
        const unsigned seen = is_there ? seen_of(at) : 0;
        shared.seen[warp][i] = static_cast<unsigned short>(seen);
        if (__all_sync(0xffffffffu, seen == kAllRows)) dense_runs |= 1u << i / 32;
      }
    }
    __syncwarp();
  }
};

}  // namespace cupyna
