// What one block of a fused kernel works on: a tile of rows that stays, and the walk over the box
// of columns that they meet. Rows are queries and columns are keys, or, in the gradients of keys
// and values, the reverse.
#pragma once

#include "tile_rows_sm80.cuh"

namespace cupyna {

template <typename T, Side kSide, int kRowArrays, int kHeadDim, int kRowTiles, int kWarps,
          int kColumns, int kShares = 1, int kStages = 2, bool kBeside = false>
struct FusedTileSm80 : FusedRowsSm80<T, kSide, kRowArrays, kHeadDim, kRowTiles, kWarps, kColumns,
                                     kShares, kStages, kBeside> {
  using Base = FusedRowsSm80<T, kSide, kRowArrays, kHeadDim, kRowTiles, kWarps, kColumns, kShares,
                             kStages, kBeside>;
  using Base::address, Base::columns, Base::head, Base::kChunks, Base::kHasColumnStatistics;
  using Base::Base;
  using Base::kPerChunk, Base::kPlaces, Base::kRowsAreQueries, Base::kThreads, Base::own;
  using Base::params, Base::row_offset, Base::rows, Base::shared;
  using typename Base::Place;
  using typename Base::Step;

  // Rows, tables and the first column tile; all but the last have arrived when it returns.
  __device__ __forceinline__ void prepare() const {
    Base::place(blockIdx.x);
    __syncthreads();
    copy_rows(*this, shared.rows[0], rows.first, params.head_dim);
    if constexpr (kRowArrays == 2) copy_rows(*this, shared.rows[1], rows.second, params.value_dim);
    ptx::copy_async_commit();
    begin_walk();
    Base::lay_rows();
    lay_columns();
    __syncthreads();
    copy_columns(shared.walk[0], 0);
    ptx::copy_async_commit();
    ptx::copy_async_wait<1>();
    __syncthreads();
  }

  // Waits for the column tile of a place; false where the walk ended.
  __device__ __forceinline__ bool arrive(int place) const {
    ptx::copy_async_wait<0>();
    __syncthreads();  // this stage has arrived, and all warps are done with the other
    return shared.walk[place].is_inside();
  }

  // Begins to copy the thread's part of the column tile after a place.
  __device__ __forceinline__ void copy_next(int stage, int place) const {
    const int next = after(place);
    if (shared.walk[next].is_inside()) copy_columns(shared.walk[next], stage ^ 1);
    ptx::copy_async_commit();
  }

  // Coordinates of columns inside a tile, and how far they are from its first one.
  __device__ __forceinline__ void lay_columns() const {
    for (int column = threadIdx.x; column < kColumns; column += kThreads) {
      const int y = params.tile[1].column_extent, z = params.tile[2].column_extent;
      const Coordinate to{column / (y * z), column / z % y, column % z};
      const bool is_padding = to.x >= params.tile[0].column_extent;
      shared.fields[column] = is_padding ? outside_fields() : pack_fields(to.x, to.y, to.z);
      shared.steps[column] = Step{step(columns.first, to), step(columns.second, to)};
      if constexpr (kHasColumnStatistics) shared.tokens[column] = token_step(to);
    }
  }

  // The first two places of the walk.
  __device__ __forceinline__ void begin_walk() const {
    if (threadIdx.x != 0) return;
    Place place;
    place.origin = Coordinate{own[0].box_begin, own[1].box_begin, own[2].box_begin};
    place.head = kRowsAreQueries ? head / params.head_group : head * params.head_group;
    locate(place);
    shared.walk[0] = place;
    advance(place);
    shared.walk[1] = place;
  }

  static __device__ __forceinline__ int after(int place) {
    return place == kPlaces - 1 ? 0 : place + 1;
  }

  // Writes the place two after `place`, where no one reads: one behind.
  __device__ __forceinline__ void continue_walk(int place) const {
    // Of warps that take turns, one that does not copy.
    if (threadIdx.x != kThreads / kShares * (kShares - 1)) return;
    Place next = shared.walk[after(place)];
    if (next.is_inside()) advance(next);
    shared.walk[after(after(place))] = next;
  }

  __device__ __forceinline__ void advance(Place& place) const {
    Coordinate& origin = place.origin;
    origin.z += params.tile[2].column_extent;
    if (origin.z < own[2].box_end) {
      // Along a line a step is always the same: other warps wait for the thread that takes it.
      const int tokens = params.tile[2].column_extent * params.axis[2].dilation;
      place.first += tokens * columns.first.axis[2];
      place.second += tokens * columns.second.axis[2];
      if constexpr (kHasColumnStatistics) place.query += tokens;
      place.last = last_in_box(origin);
      return;
    }
    origin.z = own[2].box_begin;
    origin.y += params.tile[1].column_extent;
    if (origin.y >= own[1].box_end) {
      origin.y = own[1].box_begin;
      origin.x += params.tile[0].column_extent;
      if (origin.x >= own[0].box_end) {
        origin.x = own[0].box_begin;
        const bool is_last = kRowsAreQueries || place.head + 1 == (head + 1) * params.head_group;
        place.head = is_last ? -1 : place.head + 1;
      }
    }
    if (place.is_inside()) locate(place);
  }

  __device__ __forceinline__ void locate(Place& place) const {
    place.first = row_offset(columns.first, place.origin, place.head);
    place.second = row_offset(columns.second, place.origin, place.head);
    if constexpr (kHasColumnStatistics) place.query = Base::query_index(place.origin, place.head);
    place.last = last_in_box(place.origin);
  }

  // Both arrays of one column tile; what lies outside the box is zero.
  __device__ __forceinline__ void copy_columns(const Place& place, int stage) const {
    const int thread = ptx::computed_here(threadIdx.x);
    const int chunk = thread % kChunks;  // the same for all columns of a thread
    const bool in_first = chunk * kPerChunk < params.head_dim,
               in_second = chunk * kPerChunk < params.value_dim;
    const T* first = static_cast<const T*>(columns.first.data) + place.first + chunk * kPerChunk;
    const T* second = static_cast<const T*>(columns.second.data) + place.second + chunk * kPerChunk;
    const unsigned last = place.last;
    // Tables are read in batches, to wait once for each; more would need too many registers.
    constexpr int kCopies = kColumns * kChunks / kThreads, kBatch = kCopies < 4 ? kCopies : 4;
#pragma unroll
    for (int begin = 0; begin < kCopies; begin += kBatch) {
      Step steps[kBatch];
      unsigned fields[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int column = thread / kChunks + (begin + i) * (kThreads / kChunks);
        steps[i] = shared.steps[column];
        fields[i] = shared.fields[column];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int column = thread / kChunks + (begin + i) * (kThreads / kChunks);
        const bool is_there = is_not_past(fields[i], last);
        // Nothing is read from where no bytes are asked for.
        ptx::copy_async_16(address(shared.first[stage], column, chunk), first + steps[i].first,
                           is_there && in_first ? 16 : 0);
        ptx::copy_async_16(address(shared.second[stage], column, chunk), second + steps[i].second,
                           is_there && in_second ? 16 : 0);
      }
    }
    if constexpr (kHasColumnStatistics) copy_statistics(place, stage, last);
  }

  __device__ __forceinline__ void copy_statistics(const Place& place, int stage,
                                                  unsigned last) const {
#pragma unroll
    for (int begin = 0; begin < kColumns; begin += kThreads) {
      const int column = begin + threadIdx.x;
      if (column >= kColumns) break;
      const bool is_there = is_not_past(shared.fields[column], last);
      ptx::copy_async_8(ptx::shared_address(&shared.statistics[stage * kColumns + column]),
                        Base::statistics + place.query + shared.tokens[column], is_there ? 8 : 0);
    }
  }

  // Bounds of the box inside the column tile that begins at `origin`.
  __device__ __forceinline__ unsigned last_in_box(const Coordinate& origin) const {
    return last_fields(own[0].box_end - 1 - origin.x, own[1].box_end - 1 - origin.y,
                       own[2].box_end - 1 - origin.z);
  }

  static __device__ __forceinline__ bool is_not_past(unsigned field, unsigned last) {
    return ((last - field) & kGuards) == kGuards;
  }

  __device__ __forceinline__ long long step(const Array& array, const Coordinate& at) const {
    return at.x * params.axis[0].dilation * array.axis[0] +
           at.y * params.axis[1].dilation * array.axis[1] +
           at.z * params.axis[2].dilation * array.axis[2];
  }

  // The same in tokens of the grid.
  __device__ __forceinline__ int token_step(const Coordinate& at) const {
    return (at.x * params.axis[0].dilation * params.axis[1].length +
            at.y * params.axis[1].dilation) *
               params.axis[2].length +
           at.z * params.axis[2].dilation;
  }
};

}  // namespace cupyna
