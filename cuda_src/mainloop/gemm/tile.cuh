// What one block of a gemm kernel works on: a tile of tokens of one side, a box of tokens of the
// other side, and slabs of that box in shared memory.
//
// Each warp owns 16 tokens that form a box of their own and walks the box of *their* partners, in
// chunks of columns, wherever these lie in the slab. A slab cuts the box along one axis: axes
// before it have one position in a slab, axes after it all of theirs.
#pragma once

#include "../../common/gemm_params.cuh"
#include "../../common/numeric.cuh"
#include "../../geometry/slots.cuh"
#include "../../ptx/shared_memory.cuh"
#include "products.cuh"

namespace cupyna {

template <typename T>
struct GemmTile {
  static constexpr int kWarps = 4;
  static constexpr int kWarpRows = 16;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kChunk = 8 * kChunkTiles<T>;
  static constexpr int kVector = 16 / int(sizeof(T));
  // Rows of a whole number of fragments, shifted against each other by an odd number of banks.
  static constexpr int kRowUnit = sizeof(T) == 2 ? 32 : 64;
  static constexpr int kRowPad = sizeof(T) == 8 ? 32 : 16;

  struct Shared {
    Window any[kWarps];  // union of what the rows of a warp see, or are seen by
    AxisTile own[kAxes];
    Line line[kAxes];
    int tile, block;  // of the grid, and of channels
  };

  const GemmParams& params;
  Shared& shared;
  const Side side;  // whose tokens the tile holds
  const int warp, lane;
  int head, batch;
  bool has_rows;  // whether any token of the warp exists

  __device__ GemmTile(const GemmParams& params, Shared& shared, Side side)
      : params(params),
        shared(shared),
        side(side),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32) {}

  // Which tile this block takes: the same in every plane.
  __device__ __forceinline__ void place_block() {
    const int tiles = params.tile[0].tiles * params.tile[1].tiles * params.tile[2].tiles;
    const int block_of_tile = blockIdx.x / tiles;
    const int tile = blockIdx.x - block_of_tile * tiles;
    if (threadIdx.x == 0) {
      shared.tile = tile;
      shared.block = block_of_tile;
    }
    if (threadIdx.x < kAxes) place_along(threadIdx.x, tile);
    __syncthreads();
  }

  // Position of a row of the tile; rows past the end of a cut tile repeat its last ones.
  __device__ __forceinline__ Coordinate position_of(int row, bool& is_real) const {
    int of_warp = row / kWarpRows, in_warp = row % kWarpRows;
    const int z = take(2, of_warp, in_warp), y = take(1, of_warp, in_warp);
    const int x = take(0, of_warp, in_warp);
    is_real = x < shared.own[0].end && y < shared.own[1].end && z < shared.own[2].end;
    return Coordinate{min_of(x, shared.own[0].end - 1), min_of(y, shared.own[1].end - 1),
                      min_of(z, shared.own[2].end - 1)};
  }

  // Where the warp's first row would be, on a grid without end.
  __device__ __forceinline__ Coordinate origin_of_warp() const {
    int of_warp = warp, in_warp = 0;
    const int z = take(2, of_warp, in_warp), y = take(1, of_warp, in_warp);
    return Coordinate{take(0, of_warp, in_warp), y, z};
  }

  // Elements from an array's first to a token's first channel.
  __device__ __forceinline__ long long offset_of(const Array& array, const Coordinate& at,
                                                 int of_head) const {
    const int x = shared.own[0].group + at.x * params.axis[0].dilation;
    const int y = shared.own[1].group + at.y * params.axis[1].dilation;
    const int z = shared.own[2].group + at.z * params.axis[2].dilation;
    return batch * array.batch + x * array.axis[0] + y * array.axis[1] + z * array.axis[2] +
           of_head * array.head;
  }

  __device__ __forceinline__ Slots slots() const {
    return Slots{params.axis[0].kernel_size, params.axis[1].kernel_size,
                 params.axis[2].kernel_size};
  }

  static __device__ __forceinline__ int padded_bytes(int channels) {
    return (channels * int(sizeof(T)) + kRowUnit - 1) / kRowUnit * kRowUnit;
  }
  static __device__ __forceinline__ int pitch_of(int channels) {
    return padded_bytes(channels) + kRowPad;
  }

  // Row of the tile that element `half` (0 or 1) of a lane's fragments belongs to.
  __device__ __forceinline__ int row_of(int half) const {
    return warp * kWarpRows + half * 8 + lane / 4;
  }

 protected:
  __device__ __forceinline__ void place_along(int axis, unsigned tile) const {
    for (int i = kAxes - 1; i > axis; --i) tile /= params.tile[i].tiles;
    const AxisParams& along = params.axis[axis];
    const GemmTileAxis& cut = params.tile[axis];
    const AxisTiling tiling{along.length,         along.kernel_size,
                            along.stride,         along.dilation,
                            along.is_causal != 0, 1 << (cut.warp_log2 + cut.warps_log2)};
    shared.own[axis] = tiling.tile(static_cast<int>(tile % cut.tiles), side);
    shared.line[axis] = tiling.line(shared.own[axis].group);
  }

  __device__ __forceinline__ int take(int axis, int& of_warp, int& in_warp) const {
    const GemmTileAxis& cut = params.tile[axis];
    const int inside = in_warp & ((1 << cut.warp_log2) - 1);
    const int outside = of_warp & ((1 << cut.warps_log2) - 1);
    in_warp >>= cut.warp_log2;
    of_warp >>= cut.warps_log2;
    return shared.own[axis].begin + (outside << cut.warp_log2) + inside;
  }

  __device__ __forceinline__ Interval partners(int axis, int position) const {
    const Line& line = shared.line[axis];
    return side == Side::kQuery ? window_of(line, position) : queries_of(line, position);
  }

  __device__ __forceinline__ Interval slab_along(int axis, int at) const {
    const int end = shared.own[axis].box_end;
    if (axis > params.split) return Interval{at, end};
    return Interval{at, min_of(at + (axis == params.split ? params.slab : 1), end)};
  }

  __device__ __forceinline__ Window slab_at(const Coordinate& at) const {
    return Window{slab_along(0, at.x), slab_along(1, at.y), slab_along(2, at.z)};
  }

  __device__ __forceinline__ bool advance(Coordinate& at) const {
    int* const along[kAxes] = {&at.x, &at.y, &at.z};
#pragma unroll
    for (int axis = kAxes - 1; axis >= 0; --axis) {
      if (axis > params.split) continue;
      *along[axis] += axis == params.split ? params.slab : 1;
      if (*along[axis] < shared.own[axis].box_end) return true;
      *along[axis] = shared.own[axis].box_begin;
    }
    return false;
  }

  __device__ __forceinline__ Interval part_along(int axis, const Interval& own,
                                                 const Interval& slab) const {
    if (axis > params.split) return own;
    return Interval{max_of(own.begin, slab.begin), min_of(own.end, slab.end)};
  }

  // What the warp sees of a slab.
  __device__ __forceinline__ Window part_of(const Window& slab) const {
    const Window& any = shared.any[warp];
    return Window{part_along(0, any.x, slab.x), part_along(1, any.y, slab.y),
                  part_along(2, any.z, slab.z)};
  }
};

}  // namespace cupyna
