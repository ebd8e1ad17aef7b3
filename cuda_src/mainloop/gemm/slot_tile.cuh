// A tile whose columns pick window slots: its warps' columns are numbered in the order of the
// slots, see geometry/slots.cuh.
#pragma once

#include "tile.cuh"

namespace cupyna {

template <typename T>
struct GemmSlotTile : GemmTile<T> {
  using Base = GemmTile<T>;
  using Base::params, Base::warp, Base::lane, Base::kWarps, Base::kChunk;

  struct Shared : Base::Shared {
    // The columns of a warp's chunk: coordinates in the part, slots from its first, rows of the
    // slab.
    alignas(16) unsigned fields[kWarps][kChunk];
    alignas(16) int steps[kWarps][kChunk];
    alignas(16) int rows[kWarps][kChunk];
  };

  Shared& shared;

  __device__ GemmSlotTile(const GemmParams& params, Shared& shared, Side side)
      : Base(params, shared, side, side == Side::kQuery), shared(shared) {}

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
};

}  // namespace cupyna
