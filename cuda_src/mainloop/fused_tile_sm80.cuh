// What one block of a fused kernel works on: a tile of queries, the key tiles of its box, and how
// both come into shared memory. The products are those of the files that derive from it.
//
// Shared memory:
//
//   | Q | K stage 0 | K stage 1 | V stage 0 | V stage 1 | windows | columns | steps | boxes | place
//   |
#pragma once

#include "../common/attention_params.cuh"
#include "../common/swizzle.cuh"
#include "../geometry/box.cuh"
#include "../ptx/shared_memory.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kRowTiles, int kWarps, int kKeys>
struct FusedTileSm80 {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kRows = kWarpRows * kWarps;
  static constexpr int kStages = 2;
  static constexpr int kChunks = kHeadDim / 8;  // 16-byte chunks of a row
  using Rows = Swizzle<kHeadDim * 2>;
  static_assert(kWarpRows <= 32 && kThreads % kChunks == 0 && kKeys * kChunks % kThreads == 0,
                "a lane has one row, and a thread copies one column of chunks");

  // What one warp's rows see: the box of all, and what all see.
  struct WarpBox {
    Window any, all;
  };

  // Elements from a key tile's first token to one of its others.
  struct Step {
    long long key, value;
  };

  struct Shared {
    T queries[kRows * kHeadDim];
    T keys[kStages][kKeys * kHeadDim];
    T values[kStages][kKeys * kHeadDim];
    Step steps[kKeys];
    Window windows[kRows];
    unsigned columns[kKeys];  // coordinates inside a key tile, packed
    WarpBox boxes[kWarps];
    // The tile along each axis. It is the same for all threads, and registers are short.
    AxisTile own[kAxes];
    Line line[kAxes];
  };

  const AttentionParams& params;
  Shared& shared;
  const AxisTile (&own)[kAxes];
  const Line (&line)[kAxes];
  const int head, batch;

  __device__ FusedTileSm80(const AttentionParams& params, Shared& shared)
      : params(params),
        shared(shared),
        own(shared.own),
        line(shared.line),
        head(blockIdx.y),
        batch(blockIdx.z) {}

  // A place in the walk over the key tiles of the box.
  struct Cursor {
    Coordinate origin;  // first position of the key tile
    bool is_first = true;
    bool is_inside = true;

    __device__ __forceinline__ explicit Cursor(const FusedTileSm80& tile)
        : origin{tile.own[0].box_begin, tile.own[1].box_begin, tile.own[2].box_begin} {}

    __device__ __forceinline__ void advance(const FusedTileSm80& tile) {
      is_first = false;
      origin.z += tile.params.tile[2].kv_extent;
      if (origin.z < tile.own[2].box_end) return;
      origin.z = tile.own[2].box_begin;
      origin.y += tile.params.tile[1].kv_extent;
      if (origin.y < tile.own[1].box_end) return;
      origin.y = tile.own[1].box_begin;
      origin.x += tile.params.tile[0].kv_extent;
      is_inside = origin.x < tile.own[0].box_end;
    }

    __device__ __forceinline__ bool meets(const Window& box, const AttentionParams& params) const {
      return origin.x < box.x.end && origin.x + params.tile[0].kv_extent > box.x.begin &&
             origin.y < box.y.end && origin.y + params.tile[1].kv_extent > box.y.begin &&
             origin.z < box.z.end && origin.z + params.tile[2].kv_extent > box.z.begin;
    }

    // Whether every column of the key tile is a key that all rows see.
    __device__ __forceinline__ bool is_within(const Window& common,
                                              const AttentionParams& params) const {
      const int x = params.tile[0].kv_extent, y = params.tile[1].kv_extent;
      const int z = params.tile[2].kv_extent;
      return x * y * z == kKeys && common.x.begin <= origin.x && origin.x + x <= common.x.end &&
             common.y.begin <= origin.y && origin.y + y <= common.y.end &&
             common.z.begin <= origin.z && origin.z + z <= common.z.end;
    }
  };

  // Position of a row of the tile; rows past the end of a cut tile repeat its last ones.
  __device__ __forceinline__ Coordinate position_of(int row, bool& is_real) const {
    const int log2_y = params.tile[1].q_extent_log2, log2_z = params.tile[2].q_extent_log2;
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

  // Everything that the walk over key tiles looks up, while the queries are on their way.
  __device__ __forceinline__ void prepare() const {
    place();
    __syncthreads();
    copy_queries();
    lay_tables();
    __syncthreads();
  }

  // Which tile of the grid this block takes.
  __device__ __forceinline__ void place() const {
    if (threadIdx.x >= kAxes) return;
    unsigned rest = blockIdx.x;
    for (int i = kAxes - 1; i > static_cast<int>(threadIdx.x); --i) rest /= params.tile[i].q_tiles;
    const AxisParams& axis = params.axis[threadIdx.x];
    const TileAxis& tile = params.tile[threadIdx.x];
    const AxisTiling tiling{axis.length,   axis.kernel_size,    axis.stride,
                            axis.dilation, axis.is_causal != 0, 1 << tile.q_extent_log2};
    shared.own[threadIdx.x] = tiling.tile(static_cast<int>(rest % tile.q_tiles), Side::kQuery);
    shared.line[threadIdx.x] = tiling.line(shared.own[threadIdx.x].group);
  }

  // Windows of rows, coordinates of columns, and what each warp's rows see.
  __device__ __forceinline__ void lay_tables() const {
    // One lane for each of the warp's rows; lanes to spare repeat some.
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int row = warp * kWarpRows + lane % kWarpRows;
    bool is_real;
    const Coordinate at = position_of(row, is_real);
    const Window window{window_of(line[0], at.x), window_of(line[1], at.y),
                        window_of(line[2], at.z)};
    shared.windows[row] = window;
    const WarpBox box{Window{any_of_warp(window.x), any_of_warp(window.y), any_of_warp(window.z)},
                      Window{all_of_warp(window.x), all_of_warp(window.y), all_of_warp(window.z)}};
    if (lane == 0) shared.boxes[warp] = box;

    for (int column = threadIdx.x; column < kKeys; column += kThreads) {
      const int y = params.tile[1].kv_extent, z = params.tile[2].kv_extent;
      const Coordinate to{column / (y * z), column / z % y, column % z};
      const bool is_padding = to.x >= params.tile[0].kv_extent;
      shared.columns[column] = is_padding ? outside_fields() : pack_fields(to.x, to.y, to.z);
      shared.steps[column] = Step{step(params.k, to), step(params.v, to)};
    }
  }

  static __device__ __forceinline__ Interval any_of_warp(const Interval& row) {
    return Interval{__reduce_min_sync(0xffffffffu, row.begin),
                    __reduce_max_sync(0xffffffffu, row.end)};
  }

  static __device__ __forceinline__ Interval all_of_warp(const Interval& row) {
    return Interval{__reduce_max_sync(0xffffffffu, row.begin),
                    __reduce_min_sync(0xffffffffu, row.end)};
  }

  __device__ __forceinline__ void copy_queries() const {
    const T* source = static_cast<const T*>(params.q.data);
    for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      bool is_real;
      const Coordinate at = position_of(row, is_real);
      const bool is_there = chunk * 8 < params.head_dim;
      const T* from = source + row_offset(params.q, at, head) + (is_there ? chunk * 8 : 0);
      ptx::copy_async_16(address(shared.queries, row, chunk), from, is_there ? 16 : 0);
    }
  }

  // Keys and values of one key tile; what lies outside the box is zero.
  __device__ __forceinline__ void copy_keys(const Cursor& cursor, int stage) const {
    const int kv_head = head / params.head_group;
    const int chunk = threadIdx.x % kChunks;  // the same for all rows of a thread
    const bool has_keys = chunk * 8 < params.head_dim, has_values = chunk * 8 < params.value_dim;
    const T* keys = static_cast<const T*>(params.k.data) +
                    row_offset(params.k, cursor.origin, kv_head) + (has_keys ? chunk * 8 : 0);
    const T* values = static_cast<const T*>(params.v.data) +
                      row_offset(params.v, cursor.origin, kv_head) + (has_values ? chunk * 8 : 0);
    const unsigned last =
        last_fields(own[0].box_end - 1 - cursor.origin.x, own[1].box_end - 1 - cursor.origin.y,
                    own[2].box_end - 1 - cursor.origin.z);
#pragma unroll 4  // more would hold more addresses than there are registers
    for (int i = 0; i < kKeys * kChunks / kThreads; ++i) {
      const int column = threadIdx.x / kChunks + i * (kThreads / kChunks);
      const bool is_key = ((last - shared.columns[column]) & kGuards) == kGuards;
      const Step step = shared.steps[column];
      ptx::copy_async_16(address(shared.keys[stage], column, chunk), keys + (is_key ? step.key : 0),
                         is_key && has_keys ? 16 : 0);
      ptx::copy_async_16(address(shared.values[stage], column, chunk),
                         values + (is_key ? step.value : 0), is_key && has_values ? 16 : 0);
    }
  }

  __device__ __forceinline__ long long step(const Array& array, const Coordinate& at) const {
    return at.x * params.axis[0].dilation * array.axis[0] +
           at.y * params.axis[1].dilation * array.axis[1] +
           at.z * params.axis[2].dilation * array.axis[2];
  }

  static __device__ __forceinline__ unsigned address(const T* rows, int row, int chunk) {
    return ptx::shared_address(rows) + Rows::offset(row, chunk);
  }
};

}  // namespace cupyna
