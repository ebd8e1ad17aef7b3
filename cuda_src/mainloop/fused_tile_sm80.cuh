// What one block of a fused kernel works on: a tile of rows that stays, the box of columns that its
// rows meet, and how both come into shared memory. Rows are queries and columns are keys, or, in
// the gradients of keys and values, the reverse.
//
// Rows and columns each have a first array, of head_dim channels, and a second one, of value_dim.
// First times first gives scores; second times second gives the gradients of weights:
//
//   rows are queries | rows q, dout | columns k, v
//   rows are keys    | rows k, v    | columns q, dout
//
// Shared memory:
//
//   | rows | first, 2 stages | second, 2 stages | steps | statistics | windows | fields | boxes |
//   place |
#pragma once

#include "../common/attention_params.cuh"
#include "../common/swizzle.cuh"
#include "../geometry/box.cuh"
#include "../ptx/shared_memory.cuh"

namespace cupyna {

// The arrays of one side.
struct Operands {
  const Array& first;
  const Array& second;
};

// What backward knows of a query: its log-sum-exp, in powers of two, and the sum of dout * out that
// is taken from the gradients of its weights.
struct Statistics {
  float lse_log2, delta;
};

template <typename T, Side kSide, int kRowArrays, int kHeadDim, int kRowTiles, int kWarps,
          int kColumns>
struct FusedTileSm80 {
  static constexpr bool kRowsAreQueries = kSide == Side::kQuery;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarpRows * kWarps;
  static constexpr int kStages = 2;
  static constexpr int kChunks = kHeadDim / 8;  // 16-byte chunks of a row
  using Rows = Swizzle<kHeadDim * 2>;
  static_assert(kWarpRows <= 32 && kThreads % kChunks == 0 && kColumns * kChunks % kThreads == 0,
                "a lane has one row, and a thread copies one column of chunks");

  // What one warp's rows see: the box of all, and what all see.
  struct WarpBox {
    Window any, all;
  };

  // Elements from a column tile's first token to one of its others.
  struct Step {
    long long first, second;
  };

  struct Shared {
    T rows[kRowArrays][kRows * kHeadDim];
    T first[kStages][kColumns * kHeadDim];
    T second[kStages][kColumns * kHeadDim];
    Step steps[kColumns];
    // Of the queries among rows and columns, in backward.
    Statistics statistics[kRowArrays == 1 ? 1 : kRowsAreQueries ? kRows : kStages * kColumns];
    Window windows[kRows];
    unsigned fields[kColumns];  // coordinates inside a column tile, packed
    WarpBox boxes[kWarps];
    // The tile along each axis. It is the same for all threads, and registers are short.
    AxisTile own[kAxes];
    Line line[kAxes];
  };

  const AttentionParams& params;
  const Operands rows, columns;
  Shared& shared;
  const AxisTile (&own)[kAxes];
  const Line (&line)[kAxes];
  const int head, batch;  // head of the rows

  __device__ FusedTileSm80(const AttentionParams& params, const Operands& rows,
                           const Operands& columns, Shared& shared)
      : params(params),
        rows(rows),
        columns(columns),
        shared(shared),
        own(shared.own),
        line(shared.line),
        head(blockIdx.y),
        batch(blockIdx.z) {}

  // A place in the walk over the column tiles of the box. Keys meet the queries of every head that
  // reads theirs.
  struct Cursor {
    Coordinate origin;  // first position of the column tile
    int head = 0;       // of the queries, where they are the columns
    bool is_first = true;
    bool is_inside = true;

    __device__ __forceinline__ explicit Cursor(const FusedTileSm80& tile)
        : origin{tile.own[0].box_begin, tile.own[1].box_begin, tile.own[2].box_begin} {
      if constexpr (!kRowsAreQueries) head = tile.head * tile.params.head_group;
    }

    __device__ __forceinline__ void advance(const FusedTileSm80& tile) {
      is_first = false;
      origin.z += tile.params.tile[2].column_extent;
      if (origin.z < tile.own[2].box_end) return;
      origin.z = tile.own[2].box_begin;
      origin.y += tile.params.tile[1].column_extent;
      if (origin.y < tile.own[1].box_end) return;
      origin.y = tile.own[1].box_begin;
      origin.x += tile.params.tile[0].column_extent;
      if (origin.x < tile.own[0].box_end) return;
      if constexpr (kRowsAreQueries) {
        is_inside = false;
      } else {
        origin.x = tile.own[0].box_begin;
        is_inside = ++head < (tile.head + 1) * tile.params.head_group;
      }
    }

    __device__ __forceinline__ bool meets(const Window& box, const AttentionParams& params) const {
      return origin.x < box.x.end && origin.x + params.tile[0].column_extent > box.x.begin &&
             origin.y < box.y.end && origin.y + params.tile[1].column_extent > box.y.begin &&
             origin.z < box.z.end && origin.z + params.tile[2].column_extent > box.z.begin;
    }

    // Whether the whole column tile is wanted by all rows.
    __device__ __forceinline__ bool is_within(const Window& common,
                                              const AttentionParams& params) const {
      const int x = params.tile[0].column_extent, y = params.tile[1].column_extent;
      const int z = params.tile[2].column_extent;
      return x * y * z == kColumns && common.x.begin <= origin.x && origin.x + x <= common.x.end &&
             common.y.begin <= origin.y && origin.y + y <= common.y.end &&
             common.z.begin <= origin.z && origin.z + z <= common.z.end;
    }
  };

  // Position of a row of the tile; rows past the end of a cut tile repeat its last ones.
  __device__ __forceinline__ Coordinate position_of(int row, bool& is_real) const {
    const int log2_y = params.tile[1].row_extent_log2, log2_z = params.tile[2].row_extent_log2;
    const int x = own[0].begin + (row >> (log2_y + log2_z));
    const int y = own[1].begin + (row >> log2_z & ((1 << log2_y) - 1));
    const int z = own[2].begin + (row & ((1 << log2_z) - 1));
    is_real = x < own[0].end && y < own[1].end && z < own[2].end;
    return Coordinate{min_of(x, own[0].end - 1), min_of(y, own[1].end - 1),
                      min_of(z, own[2].end - 1)};
  }

  __device__ __forceinline__ long long row_offset(const Array& array, const Coordinate& at,
                                                  int of_head) const {
    const int x = own[0].group + at.x * params.axis[0].dilation;
    const int y = own[1].group + at.y * params.axis[1].dilation;
    const int z = own[2].group + at.z * params.axis[2].dilation;
    return batch * array.batch + x * array.axis[0] + y * array.axis[1] + z * array.axis[2] +
           of_head * array.head;
  }

  // Which tile of the grid this block takes.
  __device__ __forceinline__ void place() const {
    if (threadIdx.x >= kAxes) return;
    unsigned rest = blockIdx.x;
    for (int i = kAxes - 1; i > static_cast<int>(threadIdx.x); --i)
      rest /= params.tile[i].row_tiles;
    const AxisParams& axis = params.axis[threadIdx.x];
    const TileAxis& tile = params.tile[threadIdx.x];
    const AxisTiling tiling{axis.length,   axis.kernel_size,    axis.stride,
                            axis.dilation, axis.is_causal != 0, 1 << tile.row_extent_log2};
    shared.own[threadIdx.x] = tiling.tile(static_cast<int>(rest % tile.row_tiles), kSide);
    shared.line[threadIdx.x] = tiling.line(shared.own[threadIdx.x].group);
  }

  // Windows of rows, coordinates of columns, and what each warp's rows see.
  __device__ __forceinline__ void lay_tables() const {
    // One lane for each of the warp's rows; lanes to spare repeat some.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp * kWarpRows + lane % kWarpRows;
    bool is_real;
    const Coordinate at = position_of(row, is_real);
    const Window window{partners_of(line[0], at.x), partners_of(line[1], at.y),
                        partners_of(line[2], at.z)};
    shared.windows[row] = window;
    const WarpBox box{Window{any_of_warp(window.x), any_of_warp(window.y), any_of_warp(window.z)},
                      Window{all_of_warp(window.x), all_of_warp(window.y), all_of_warp(window.z)}};
    if (lane == 0) shared.boxes[warp] = box;

    for (int column = threadIdx.x; column < kColumns; column += kThreads) {
      const int y = params.tile[1].column_extent, z = params.tile[2].column_extent;
      const Coordinate to{column / (y * z), column / z % y, column % z};
      const bool is_padding = to.x >= params.tile[0].column_extent;
      shared.fields[column] = is_padding ? outside_fields() : pack_fields(to.x, to.y, to.z);
      shared.steps[column] = Step{step(columns.first, to), step(columns.second, to)};
    }
  }

  static __device__ __forceinline__ Interval partners_of(const Line& line, int position) {
    return kRowsAreQueries ? window_of(line, position) : queries_of(line, position);
  }

  static __device__ __forceinline__ Interval any_of_warp(const Interval& row) {
    return Interval{__reduce_min_sync(0xffffffffu, row.begin),
                    __reduce_max_sync(0xffffffffu, row.end)};
  }

  static __device__ __forceinline__ Interval all_of_warp(const Interval& row) {
    return Interval{__reduce_max_sync(0xffffffffu, row.begin),
                    __reduce_min_sync(0xffffffffu, row.end)};
  }

  __device__ __forceinline__ void copy_rows(T* target, const Array& array, int channels) const {
    const T* source = static_cast<const T*>(array.data);
    for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      bool is_real;
      const Coordinate at = position_of(row, is_real);
      const bool is_there = chunk * 8 < channels;
      const T* from = source + row_offset(array, at, head) + (is_there ? chunk * 8 : 0);
      ptx::copy_async_16(address(target, row, chunk), from, is_there ? 16 : 0);
    }
  }

  // Both arrays of one column tile; what lies outside the box is zero.
  __device__ __forceinline__ void copy_columns(const Cursor& cursor, int stage) const {
    const int chunk = threadIdx.x % kChunks;  // the same for all columns of a thread
    const bool in_first = chunk * 8 < params.head_dim, in_second = chunk * 8 < params.value_dim;
    const int of_head = kRowsAreQueries ? head / params.head_group : cursor.head;
    const T* first = static_cast<const T*>(columns.first.data) +
                     row_offset(columns.first, cursor.origin, of_head) + (in_first ? chunk * 8 : 0);
    const T* second = static_cast<const T*>(columns.second.data) +
                      row_offset(columns.second, cursor.origin, of_head) +
                      (in_second ? chunk * 8 : 0);
    const unsigned last = last_in_box(cursor.origin);
#pragma unroll 4  // more would hold more addresses than there are registers
    for (int i = 0; i < kColumns * kChunks / kThreads; ++i) {
      const int column = threadIdx.x / kChunks + i * (kThreads / kChunks);
      const bool is_there = is_not_past(column, last);
      const Step step = shared.steps[column];
      ptx::copy_async_16(address(shared.first[stage], column, chunk),
                         first + (is_there ? step.first : 0), is_there && in_first ? 16 : 0);
      ptx::copy_async_16(address(shared.second[stage], column, chunk),
                         second + (is_there ? step.second : 0), is_there && in_second ? 16 : 0);
    }
  }

  // Bounds of the box inside the column tile that begins at `origin`.
  __device__ __forceinline__ unsigned last_in_box(const Coordinate& origin) const {
    return last_fields(own[0].box_end - 1 - origin.x, own[1].box_end - 1 - origin.y,
                       own[2].box_end - 1 - origin.z);
  }

  __device__ __forceinline__ bool is_not_past(int column, unsigned last) const {
    return ((last - shared.fields[column]) & kGuards) == kGuards;
  }

  __device__ __forceinline__ long long step(const Array& array, const Coordinate& at) const {
    return at.x * params.axis[0].dilation * array.axis[0] +
           at.y * params.axis[1].dilation * array.axis[1] +
           at.z * params.axis[2].dilation * array.axis[2];
  }

  // Row of the tile that element `half` (0 or 1) of a thread's fragments belongs to.
  static __device__ __forceinline__ int row_of(int warp, int row_tile, int half) {
    return warp * kWarpRows + row_tile * 16 + half * 8 + threadIdx.x % 32 / 4;
  }

  // A warp's rows of `source`, copied to an array, 16 bytes at a time.
  __device__ __forceinline__ void write_rows(const Array& array, const T* source, int warp,
                                             int channels) const {
    T* target = static_cast<T*>(array.data);
    for (int i = threadIdx.x % 32; i < kWarpRows * kChunks; i += 32) {
      const int row = warp * kWarpRows + i / kChunks, chunk = i % kChunks;
      bool is_real;
      const Coordinate at = position_of(row, is_real);
      if (is_real && chunk * 8 < channels) {
        *reinterpret_cast<uint4*>(target + row_offset(array, at, head) + chunk * 8) =
            *reinterpret_cast<const uint4*>(reinterpret_cast<const char*>(source) +
                                            Rows::offset(row, chunk));
      }
    }
  }

  static __device__ __forceinline__ unsigned address(const T* rows, int row, int chunk) {
    return ptx::shared_address(rows) + Rows::offset(row, chunk);
  }
};

}  // namespace cupyna
