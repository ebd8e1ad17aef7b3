// What is known of the slabs of a box before they are walked.
#pragma once

#include "../../geometry/box.cuh"

namespace cupyna {

// A slab of the box, in the order of the walk.
struct GemmSlab {
  Coordinate at;
  int index;
};

// Tokens from the first slab to another one, and rows of that.
struct alignas(16) GemmPlace {
  int x, y, z, rows;
};

// Columns of a warp in a slab, and where its tables keep them: at 32 times `kept_run`.
struct GemmShare {
  static constexpr int kMostColumns = 1023, kIsNotKept = 63;
  int columns, kept_run;

  static __device__ __forceinline__ GemmShare of(unsigned short word) {
    return GemmShare{word & kMostColumns, word >> 10};
  }
  __device__ __forceinline__ unsigned short word() const {
    return static_cast<unsigned short>(columns | kept_run << 10);
  }
};

}  // namespace cupyna
