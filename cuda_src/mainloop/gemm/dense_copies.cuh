// Where the rows of a tile and of its slabs are, and their copies to shared memory.
#pragma once

#include "dense_columns.cuh"

namespace cupyna {

template <typename T>
struct GemmDenseCopies : GemmDenseColumns<T> {
  using Base = GemmDenseColumns<T>;
  using Base::Base;
  using Base::box_corner, Base::kRows, Base::kThreads, Base::kWarps;
  using Base::lane, Base::params, Base::shared, Base::warp;
  using typename Base::Place;
  using typename Base::Token;

  // One walk of the box: of tiles of queries a head, of tiles of keys a query head of theirs.
  struct Pass {
    int batch, head, query_head;
  };

  // Elements from an array's first to the first channel of a row of the tile.
  __device__ __forceinline__ long long offset_of_row(const Array& array, int row, const Pass& pass,
                                                     int of_head) const {
    const Token at = shared.tokens[row];
    return pass.batch * array.batch + of_head * array.head +
           offset_in_plane(array, Coordinate{at.x, at.y, at.z});
  }

  // Where rows are, in bytes: those of slabs, counted from the first slab, and the tile's own.
  template <typename Item = T>
  __device__ __forceinline__ void lay_offsets(long long* offsets, const Array& array) const {
    const Coordinate corner = box_corner();
    const Part part(Base::slab_at(corner));
    for (int row = threadIdx.x; row < part.columns(); row += kThreads) {
      const Coordinate in = part.at(row);
      const Coordinate at{token(0, corner.x + in.x), token(1, corner.y + in.y),
                          token(2, corner.z + in.z)};
      offsets[row] = offset_in_plane(array, at) * int(sizeof(Item));
    }
  }
  __device__ __forceinline__ void lay_own_offsets(long long* offsets, const Array& array) const {
    if (threadIdx.x >= kRows) return;
    const Token at = shared.tokens[threadIdx.x];
    offsets[threadIdx.x] = offset_in_plane(array, Coordinate{at.x, at.y, at.z}) * int(sizeof(T));
  }

  // Copies rows of channels that begin at `data` and an offset each. Channels that are not there
  // become zero.
  __device__ __forceinline__ void copy_rows(char* target, int pitch, const T* data,
                                            const long long* offsets, int rows, int channels,
                                            bool is_vector, long long stride) const {
    const int bytes = Base::padded_bytes(channels);
    if (is_vector) {
      const int lanes_log2 = min_of(32 - __clz(bytes / 16 - 1), 5);
      const int step = kThreads >> lanes_log2;
#pragma unroll 1
      for (int at = (lane & ((1 << lanes_log2) - 1)) * 16; at < bytes; at += 512) {
        const bool is_there = at < channels * int(sizeof(T));
        const int size = is_there ? 16 : 0;
        const char* const from = reinterpret_cast<const char*>(data) + (is_there ? at : 0);
        const int first = threadIdx.x >> lanes_log2;
        unsigned to = ptx::shared_address(target) + first * pitch + at;
#pragma unroll 4
        for (int row = first; row < rows; row += step, to += step * pitch) {
          ptx::copy_async_16(to, from + offsets[row], size);
        }
      }
      return;
    }
#pragma unroll 1
    for (int row = warp; row < rows; row += kWarps) {
      const T* from =
          reinterpret_cast<const T*>(reinterpret_cast<const char*>(data) + offsets[row]);
#pragma unroll 1
      for (int c = lane; c < bytes / int(sizeof(T)); c += 32) {
        reinterpret_cast<T*>(target + row * pitch)[c] =
            c < channels ? from[c * stride] : narrow<T>(Wide<T>(0));
      }
    }
  }

  // The head of keys that a pass meets. Divisions are slow, and most problems want none.
  __device__ __forceinline__ int key_head(const Pass& pass) const {
    return params.head_group == 1 ? pass.head : pass.head / params.head_group;
  }

  // The tile's own rows of an array.
  __device__ __forceinline__ void copy_tile(char* target, const Array& array,
                                            const long long* offsets, const Pass& pass, int of_head,
                                            int channels, bool is_vector) const {
    const T* data =
        static_cast<const T*>(array.data) + pass.batch * array.batch + of_head * array.head;
    copy_rows(target, Base::pitch_of(channels), data, offsets, kRows, channels, is_vector,
              array.channel);
  }

  // From an array's first element to a slab's first, of any type.
  __device__ __forceinline__ long long slab_offset(const Array& array, const Pass& pass,
                                                   int of_head, const Place& slab) const {
    return pass.batch * array.batch + of_head * array.head +
           offset_in_plane(array, Coordinate{slab.x, slab.y, slab.z});
  }

  // A slab's rows of an array, `channels` channels from `first` on.
  __device__ __forceinline__ void copy_slab(char* target, const Place& slab, const Array& array,
                                            const long long* offsets, const Pass& pass, int of_head,
                                            int first, int channels, int pitch,
                                            bool is_vector) const {
    const T* data = static_cast<const T*>(array.data) + slab_offset(array, pass, of_head, slab) +
                    first * array.channel;
    copy_rows(target, pitch, data, offsets, slab.rows, channels, is_vector, array.channel);
  }

 protected:
  __device__ __forceinline__ int token(int axis, int position) const {
    return shared.own[axis].group + position * params.axis[axis].dilation;
  }

  static __device__ __forceinline__ long long offset_in_plane(const Array& array,
                                                              const Coordinate& at) {
    return at.x * array.axis[0] + at.y * array.axis[1] + at.z * array.axis[2];
  }
};

}  // namespace cupyna
