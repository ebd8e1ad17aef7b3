// A tile whose columns pick window slots: its warps' columns are numbered in the order of the
// slots, see geometry/slots.cuh.
#pragma once

#include "tile.cuh"

namespace cupyna {

template <typename T>
struct GemmSlotTile : GemmTile<T> {
  using Base = GemmTile<T>;
  using Base::kWarps, Base::kWarpRows, Base::kRows, Base::kThreads, Base::kChunk, Base::kVector;
  using Base::params, Base::warp, Base::lane, Base::side, Base::batch, Base::head;

  struct Shared : Base::Shared {
    Window windows[kRows];  // what each row of the tile sees, or is seen by
    // The columns of a warp's chunk: coordinates in the part, slots from its first, rows of the
    // slab.
    alignas(16) unsigned fields[kWarps][kChunk];
    alignas(16) int steps[kWarps][kChunk];
    alignas(16) int rows[kWarps][kChunk];
  };

  Shared& shared;

  __device__ GemmSlotTile(const GemmParams& params, Shared& shared, Side side)
      : Base(params, shared, side), shared(shared) {}

  // What the rows of this block's tile see: the same in every plane.
  __device__ __forceinline__ void place() {
    Base::place_block();
    if (threadIdx.x < kRows) {
      bool is_real;
      const Coordinate at = Base::position_of(threadIdx.x, is_real);
      shared.windows[threadIdx.x] =
          Window{Base::partners(0, at.x), Base::partners(1, at.y), Base::partners(2, at.z)};
    }
    __syncthreads();
    bool is_real;
    Base::position_of(warp * kWarpRows + lane % kWarpRows, is_real);
    Base::has_rows = __any_sync(0xffffffffu, is_real);
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

  // Copies rows of `channels` channels; `source(row)` is where a row begins. Channels that are not
  // there become zero. A warp takes kBatch rows at a time: each lane places one, for all lanes.
  template <int kBatch, typename Source>
  __device__ __forceinline__ void copy_rows(char* target, int pitch, int rows, int channels,
                                            bool is_vector, long long stride,
                                            const Source& source) const {
    const int items = Base::padded_bytes(channels) / (is_vector ? 16 : int(sizeof(T)));
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
    copy_rows<kWarpRows>(
        target, Base::pitch_of(channels), kRows, channels, is_vector, array.channel, [&](int row) {
          bool is_real;
          return data + Base::offset_of(array, Base::position_of(row, is_real), of_head);
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
      return data + Base::offset_of(array,
                                    Coordinate{part.origin.x + at.x, part.origin.y + at.y,
                                               part.origin.z + at.z},
                                    of_head);
    });
  }

  // Walks the slabs of the box. `product` copies a slab, prepares for a part before the next slab
  // is asked for, and takes the part when the slab is there; it is told how many columns the next
  // part has.
  template <typename Product>
  __device__ __forceinline__ void walk(Product& product) const {
    Coordinate at{shared.own[0].box_begin, shared.own[1].box_begin, shared.own[2].box_begin};
    product.copy(Base::slab_at(at), 0);
    ptx::copy_async_commit();
    bool is_inside = true;
    for (int stage = 0; is_inside; stage ^= 1) {
      ptx::copy_async_wait<0>();
      __syncthreads();  // this slab has arrived, and all warps are done with the other stage
      const Window slab = Base::slab_at(at);
      const Part part(Base::part_of(slab));
      const bool takes = Base::has_rows && part.columns() > 0;
      if (takes) product.prepare(part);
      ptx::copy_async_commit();
      is_inside = Base::advance(at);
      if (is_inside) product.copy(Base::slab_at(at), stage ^ 1);
      ptx::copy_async_commit();
      if (takes)
        product.take(part, slab, stage,
                     is_inside ? Part(Base::part_of(Base::slab_at(at))).columns() : 0);
    }
    ptx::copy_async_wait<0>();
  }

  // Lays out the chunk of a part that begins with column `first`.
  __device__ __forceinline__ void lay_columns(const Part& part, const Window& slab,
                                              int first) const {
    const int y = slab.y.end - slab.y.begin, z = slab.z.end - slab.z.begin;
    const int x_shift = part.origin.x - slab.x.begin, y_shift = part.origin.y - slab.y.begin;
    const int z_shift = part.origin.z - slab.z.begin;
    const int columns = part.columns();
    __syncwarp();  // all lanes are done with the chunk before
#pragma unroll
    for (int i = lane; i < kChunk; i += 32) {
      if (first + i - lane >= columns) break;
      const int column = first + i;
      const bool is_there = column < columns;
      const Coordinate at = part.at(is_there ? column : 0);
      // Padding names a row that is there: its numbers are finite, and nothing sees them.
      const int row_x = min_of(at.x + x_shift, slab.x.end - slab.x.begin - 1);
      const int row_y = min_of(at.y + y_shift, y - 1), row_z = min_of(at.z + z_shift, z - 1);
      shared.fields[warp][i] =
          GuardedWindow::guarded(is_there ? pack_fields(at.x, at.y, at.z) : outside_fields());
      shared.steps[warp][i] = Base::slots().index(at.x, at.y, at.z);
      shared.rows[warp][i] = (row_x * y + row_y) * z + row_z;
    }
    __syncwarp();
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

  // For queries at least as long as a window: shrunken windows leave slots without keys,
  // and a chunk's slots must not lie further apart than its columns.
  __device__ __forceinline__ Interval any_of_warp(const Interval& row, int axis) const {
    const int begin = __reduce_min_sync(0xffffffffu, row.begin);
    const int end = __reduce_max_sync(0xffffffffu, row.end);
    const int least = side == Side::kQuery ? begin + params.axis[axis].kernel_size : end;
    return Interval{begin, max_of(end, least)};
  }
};

}  // namespace cupyna
