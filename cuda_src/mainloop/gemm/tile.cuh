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
    Window windows[kRows];  // what each row of the tile sees, or is seen by
    Window any[kWarps];     // union of each warp's windows
    AxisTile own[kAxes];
    Line line[kAxes];
    int tile, block;  // of the grid, and of channels
  };

  const GemmParams& params;
  Shared& shared;
  const Side side;         // whose tokens the tile holds
  const bool keeps_slots;  // whether boxes of queries hold every slot, with a key or without
  const int warp, lane;
  int head, batch;
  bool has_rows;  // whether any token of the warp exists

  __device__ GemmTile(const GemmParams& params, Shared& shared, Side side, bool keeps_slots)
      : params(params),
        shared(shared),
        side(side),
        keeps_slots(keeps_slots),
        warp(threadIdx.x / 32),
        lane(threadIdx.x % 32) {}

  // Which tile this block takes, and what its rows see: the same in every plane.
  __device__ __forceinline__ void place() {
    const int tiles = params.tile[0].tiles * params.tile[1].tiles * params.tile[2].tiles;
    const int block_of_tile = blockIdx.x / tiles;
    const int tile = blockIdx.x - block_of_tile * tiles;
    if (threadIdx.x == 0) {
      shared.tile = tile;
      shared.block = block_of_tile;
    }
    if (threadIdx.x < kAxes) place_along(threadIdx.x, tile);
    __syncthreads();
    if (threadIdx.x < kRows) {
      bool is_real;
      const Coordinate at = position_of(threadIdx.x, is_real);
      shared.windows[threadIdx.x] = Window{partners(0, at.x), partners(1, at.y), partners(2, at.z)};
    }
    __syncthreads();
    bool is_real;
    position_of(warp * kWarpRows + lane % kWarpRows, is_real);
    has_rows = __any_sync(0xffffffffu, is_real);
    const Window window = shared.windows[warp * kWarpRows + lane % kWarpRows];
    const Window any{any_of_warp(window.x, 0), any_of_warp(window.y, 1), any_of_warp(window.z, 2)};
    if (lane == 0) shared.any[warp] = any;
    __syncwarp();
  }

  // Calls `work` for those of `heads` heads of each batch entry that fall to this block.
  template <typename Work>
  __device__ __forceinline__ void for_planes(int heads, const Work& work) {
    for (int plane = blockIdx.y; plane < params.batch * heads; plane += gridDim.y) {
      batch = plane / heads;
      head = plane - batch * heads;
      work();
      __syncthreads();  // all warps are done with shared memory
    }
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

  // Copies rows of `channels` channels; `source(row)` is where a row begins. Channels that are not
  // there become zero. A warp takes kBatch rows at a time: each lane places one, for all lanes.
  template <int kBatch, typename Source>
  __device__ __forceinline__ void copy_rows(char* target, int pitch, int rows, int channels,
                                            bool is_vector, long long stride,
                                            const Source& source) const {
    const int items = padded_bytes(channels) / (is_vector ? 16 : int(sizeof(T)));
    const int lanes_log2 = min_of(32 - __clz(items - 1), 5);
    const int item = lane & ((1 << lanes_log2) - 1);
    const int step = 32 >> lanes_log2;
#pragma unroll 1
    for (int first = warp * kBatch; first < rows; first += kWarps * kBatch) {
      const unsigned long long own =
          reinterpret_cast<unsigned long long>(source(min_of(first + lane % kBatch, rows - 1)));
      const int count = min_of(kBatch, rows - first);
      for (int in_batch = lane >> lanes_log2, i = 0; i < count; i += step, in_batch += step) {
        const T* from = reinterpret_cast<const T*>(__shfl_sync(0xffffffffu, own, in_batch % 32));
        if (in_batch < count) {
          copy_row(target + (first + in_batch) * pitch, from, item, items, 1 << lanes_log2,
                   channels, is_vector, stride);
        }
      }
    }
  }

  // The tile's own rows of an array.
  __device__ __forceinline__ void copy_tile(char* target, const Array& array, int of_head,
                                            int channels, bool is_vector) const {
    const T* data = static_cast<const T*>(array.data);
    copy_rows<kWarpRows>(target, pitch_of(channels), kRows, channels, is_vector, array.channel,
                         [&](int row) {
                           bool is_real;
                           return data + offset_of(array, position_of(row, is_real), of_head);
                         });
  }

  // A slab's rows of an array, `channels` channels from `first` on.
  __device__ __forceinline__ void copy_slab(char* target, const Window& slab, const Array& array,
                                            int of_head, int first, int channels, int pitch,
                                            bool is_vector) const {
    const Part part(slab);
    const T* data = static_cast<const T*>(array.data) + first * array.channel;
    copy_rows<32>(target, pitch, part.columns(), channels, is_vector, array.channel, [&](int row) {
      const Coordinate at = part.at(row);
      return data +
             offset_of(array,
                       Coordinate{part.origin.x + at.x, part.origin.y + at.y, part.origin.z + at.z},
                       of_head);
    });
  }

  // Walks the slabs of the box. `product` copies a slab, prepares for a part before the next slab
  // is asked for, and takes the part when the slab is there; it is told how many columns the next
  // part has.
  template <typename Product>
  __device__ __forceinline__ void walk(Product& product) const {
    Coordinate at{shared.own[0].box_begin, shared.own[1].box_begin, shared.own[2].box_begin};
    product.copy(slab_at(at), 0);
    ptx::copy_async_commit();
    bool is_inside = true;
    for (int stage = 0; is_inside; stage ^= 1) {
      ptx::copy_async_wait<0>();
      __syncthreads();  // this slab has arrived, and all warps are done with the other stage
      const Window slab = slab_at(at);
      const Part part(part_of(slab));
      const bool takes = has_rows && part.columns() > 0;
      if (takes) product.prepare(part);
      ptx::copy_async_commit();
      is_inside = advance(at);
      if (is_inside) product.copy(slab_at(at), stage ^ 1);
      ptx::copy_async_commit();
      if (takes)
        product.take(part, slab, stage, is_inside ? Part(part_of(slab_at(at))).columns() : 0);
    }
    ptx::copy_async_wait<0>();
  }

  // Row of the tile that element `half` (0 or 1) of a lane's fragments belongs to.
  __device__ __forceinline__ int row_of(int half) const {
    return warp * kWarpRows + half * 8 + lane / 4;
  }

 private:
  static __device__ __forceinline__ void copy_row(char* to, const T* from, int item, int items,
                                                  int step, int channels, bool is_vector,
                                                  long long stride) {
    for (; item < items; item += step) {
      if (is_vector) {
        const bool is_there = item * kVector < channels;
        ptx::copy_async_16(ptx::shared_address(to + item * 16),
                           from + (is_there ? item * kVector : 0), is_there ? 16 : 0);
      } else {
        reinterpret_cast<T*>(to)[item] =
            item < channels ? from[item * stride] : narrow<T>(Wide<T>(0));
      }
    }
  }

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

  // Where slots are kept, at least as long as a window: shrunken windows leave slots without keys,
  // and a chunk's slots must not lie further apart than its columns.
  __device__ __forceinline__ Interval any_of_warp(const Interval& row, int axis) const {
    const int begin = __reduce_min_sync(0xffffffffu, row.begin);
    const int end = __reduce_max_sync(0xffffffffu, row.end);
    const int least = keeps_slots ? begin + params.axis[axis].kernel_size : end;
    return Interval{begin, max_of(end, least)};
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
