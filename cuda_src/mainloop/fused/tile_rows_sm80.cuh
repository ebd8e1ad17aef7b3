// What one block of a fused kernel keeps in shared memory, and its tile of rows: where they lie,
// what they meet, how they come and go.
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

#include "../../common/attention_params.cuh"
#include "../../common/swizzle.cuh"
#include "../../geometry/box.cuh"
#include "../../ptx/arithmetic.cuh"
#include "../../ptx/shared_memory.cuh"
#include "beside.cuh"
#include "row_places_sm80.cuh"

namespace cupyna {

// The arrays of one side.
struct Operands {
  const Array& first;
  const Array& second;
};

// kShares warps have the same rows, each a share of the channels that it sums. With kBeside keys
// are those beside the windows, which every query sees.
template <typename T, Side kSide, int kRowArrays, int kHeadDim, int kRowTiles, int kWarps,
          int kColumns, int kShares = 1, int kStages = 2, bool kBeside = false>
struct FusedRowsSm80 {
  using Element = T;
  static constexpr bool kRowsAreQueries = kSide == Side::kQuery;
  static constexpr int kWarpsOfRows = kShares;  // that have the same rows
  static constexpr int kThreads = 32 * kWarps * kShares;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarpRows * kWarps;
  static constexpr int kPerChunk = 16 / sizeof(T);      // channels in 16 bytes
  static constexpr int kChunks = kHeadDim / kPerChunk;  // of a row
  static constexpr bool kIsBackward = kRowArrays == 2;
  static constexpr bool kHasColumnStatistics = kIsBackward && !kRowsAreQueries;
  using Rows = Swizzle<kHeadDim * sizeof(T)>;
  static_assert(kWarpRows <= 32 && kThreads % kChunks == 0 && kColumns * kChunks % kThreads == 0,
                "a lane has one row, and a thread copies one column of chunks");

  // What one warp's rows see: the box of all, and what all see.
  struct alignas(16) WarpBox {
    Window any, all;
  };

  // Elements from a column tile's first token to one of its others.
  struct Step {
    long long first, second;
  };

  // A place in the walk over the column tiles of the box. One thread takes each step for all, two
  // tiles ahead: registers are short. Keys meet the queries of every head that reads theirs.
  struct alignas(16) Place {
    long long first, second;  // elements from the begin of each array to the tile's first token
    Coordinate origin;        // first position of the column tile
    int head;                 // of the columns; none where the walk has ended
    long long query;          // index of the tile's first token, where columns are queries
    unsigned last;            // bounds of the box inside the column tile

    __device__ __forceinline__ bool is_inside() const { return head >= 0; }
  };
  static constexpr int kPlaces = 3;
  static constexpr int kFar = 1 << 29;  // beyond any position

  struct Shared {
    T rows[kRowArrays][kRows * kHeadDim];
    T first[kStages][kColumns * kHeadDim];
    T second[kStages][kColumns * kHeadDim];
    Step steps[kColumns];
    int tokens[kHasColumnStatistics ? kColumns : 1];  // from the tile's first token
    Place walk[kPlaces];
    // Of the queries among rows and columns, in backward.
    alignas(16) Statistics statistics[kRowArrays == 1   ? 1
                                      : kRowsAreQueries ? kRows
                                                        : kStages * kColumns];
    Window windows[kRows];
    unsigned fields[kColumns];  // coordinates inside a column tile, packed
    WarpBox boxes[kWarps];
    // The tile along each axis. It is the same for all threads, and registers are short.
    AxisTile own[kAxes];
    Line line[kAxes];
  };

  const AttentionParams& params;
  const Operands rows, columns;
  Statistics* const statistics;  // of every query, in backward
  Shared& shared;
  const AxisTile (&own)[kAxes];
  const Line (&line)[kAxes];
  const int head, batch;  // head of the rows

  __device__ FusedRowsSm80(const AttentionParams& params, const Operands& rows,
                           const Operands& columns, Statistics* statistics, Shared& shared,
                           int batch = blockIdx.z)
      : params(params),
        rows(rows),
        columns(columns),
        statistics(statistics),
        shared(shared),
        own(shared.own),
        line(shared.line),
        head(blockIdx.y),
        batch(batch) {}

  // Whether any of the rows meets a column of the tile, without a branch for each bound.
  __device__ __forceinline__ bool meets(const Window& any, const Coordinate& origin) const {
    const TileAxis(&tile)[kAxes] = params.tile;
    return (origin.x < any.x.end) & (origin.x + tile[0].column_extent > any.x.begin) &
           (origin.y < any.y.end) & (origin.y + tile[1].column_extent > any.y.begin) &
           (origin.z < any.z.end) & (origin.z + tile[2].column_extent > any.z.begin);
  }

  // Whether all rows meet all columns, and none of them is padding.
  __device__ __forceinline__ bool is_within(const Window& all, const Coordinate& origin) const {
    const int x = params.tile[0].column_extent, y = params.tile[1].column_extent;
    const int z = params.tile[2].column_extent;
    return (x * y * z == kColumns) & (all.x.begin <= origin.x) & (origin.x + x <= all.x.end) &
           (all.y.begin <= origin.y) & (origin.y + y <= all.y.end) & (all.z.begin <= origin.z) &
           (origin.z + z <= all.z.end);
  }

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

  // The tiles of rows along an axis.
  __device__ __forceinline__ AxisTiling tiling(int i) const {
    const AxisParams& axis = params.axis[i];
    return AxisTiling{axis.length,   axis.kernel_size,    axis.stride,
                      axis.dilation, axis.is_causal != 0, 1 << params.tile[i].row_extent_log2};
  }

  // Which tile of the grid the rows are.
  __device__ __forceinline__ void place(unsigned index) const {
    if (threadIdx.x >= kAxes) return;
    for (int i = kAxes - 1; i > static_cast<int>(threadIdx.x); --i)
      index /= params.tile[i].row_tiles;
    const AxisTiling along = tiling(threadIdx.x);
    const int local = static_cast<int>(index % params.tile[threadIdx.x].row_tiles);
    if constexpr (kBeside) {
      const auto& beside = static_cast<const BesideGradientParams&>(params);
      const int axis = threadIdx.x;
      shared.own[axis] = kRowsAreQueries ? queries_beside(beside, along.tile(local, kSide), axis)
                                         : keys_beside(beside, kRows, axis);
      return;
    }
    shared.own[threadIdx.x] = along.tile(local, kSide);
    shared.line[threadIdx.x] = along.line(shared.own[threadIdx.x].group);
  }

  // Windows of rows, and what each warp's rows see.
  __device__ __forceinline__ void lay_rows() const {
    // One lane for each of the warp's rows; lanes to spare repeat some.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (kShares == 1 || warp < kWarps) {
      const int row = warp * kWarpRows + lane % kWarpRows;
      bool is_real;
      const Coordinate at = position_of(row, is_real);
      // A row that stands in for none meets nothing. Keys of a cut tile are masked for it, so that
      // no query counts it; a query that is not real is not written, whatever it sums.
      const Window window{partners_of(0, at.x, is_real), partners_of(1, at.y, is_real),
                          partners_of(2, at.z, is_real)};
      const bool can_mask = is_real || !kRowsAreQueries;
      shared.windows[row] = window;
      const WarpBox box{Window{any_of_warp(window.x), any_of_warp(window.y), any_of_warp(window.z)},
                        Window{all_of_warp(window.x, can_mask), all_of_warp(window.y, can_mask),
                               all_of_warp(window.z, can_mask)}};
      if (lane == 0) shared.boxes[warp] = box;
    }
  }

  __device__ __forceinline__ Interval partners_of(int axis, int position, bool is_real) const {
    if (!is_real) return Interval{kFar, -kFar};
    if constexpr (kBeside) return Interval{own[axis].box_begin, own[axis].box_end};
    return kRowsAreQueries ? window_of(line[axis], position) : queries_of(line[axis], position);
  }

  static __device__ __forceinline__ Interval any_of_warp(const Interval& row) {
    return Interval{__reduce_min_sync(0xffffffffu, row.begin),
                    __reduce_max_sync(0xffffffffu, row.end)};
  }

  static __device__ __forceinline__ Interval all_of_warp(const Interval& row, bool is_in) {
    return Interval{__reduce_max_sync(0xffffffffu, is_in ? row.begin : -kFar),
                    __reduce_min_sync(0xffffffffu, is_in ? row.end : kFar)};
  }

  // Index of a query in [batch, heads, tokens].
  __device__ __forceinline__ long long query_index(const Coordinate& at, int of_head) const {
    const int heads = gridDim.y * (kRowsAreQueries ? 1 : params.head_group);
    const int x = own[0].group + at.x * params.axis[0].dilation;
    const int y = own[1].group + at.y * params.axis[1].dilation;
    const int z = own[2].group + at.z * params.axis[2].dilation;
    const long long plane = static_cast<long long>(batch) * heads + of_head;
    return ((plane * params.axis[0].length + x) * params.axis[1].length + y) *
               params.axis[2].length +
           z;
  }

  // Row of the tile that element `half` (0 or 1) of a thread's fragments belongs to.
  static __device__ __forceinline__ int row_of(int warp, int row_tile, int half) {
    return warp * kWarpRows + row_tile * 16 + half * 8 + threadIdx.x % 32 / 4;
  }

  static __device__ __forceinline__ unsigned address(const T* rows, int row, int chunk) {
    return ptx::shared_address(rows) + Rows::offset(row, chunk);
  }
};

}  // namespace cupyna
