// One row of weights to a group of lanes, for the kernels between the products.
//
// Rows are dense, begin on a multiple of 32 bytes and are padded to one: a lane moves quads of
// slots, and may write whatever it likes into the padding.
#pragma once

#include "../common/numeric.cuh"
#include "../common/params.cuh"
#include "../common/warp.cuh"

namespace cupyna {

// Quads of a row that a lane holds at a time.
constexpr int kQuads = 4;

template <typename Number>
struct alignas(16) Quad {
  Number slot[4];
};

template <typename Number>
__device__ __forceinline__ Quad<Number>* as_quads(Number* row) {
  return reinterpret_cast<Quad<Number>*>(row);
}

// The token whose row a group works on.
struct Row {
  int x, y, z;
  int slots;
  bool is_active;

  // Groups past the last token repeat it without storing: all lanes of a warp stay together.
  __device__ Row(const Params& params, int token) : is_active(token < params.items) {
    const unsigned clamped = is_active ? token : params.items - 1;
    const unsigned lines = clamped / params.axis[2].length;
    z = clamped - lines * params.axis[2].length;
    x = lines / params.axis[1].length;
    y = lines - x * params.axis[1].length;
    slots = params.axis[0].kernel_size * params.axis[1].kernel_size * params.axis[2].kernel_size;
  }

  __device__ int quads() const { return (slots + 3) / 4; }
};

template <typename T>
__device__ __forceinline__ T group_max(T value, const Lanes& lanes) {
  for (int mask = 1; mask < lanes.count; mask <<= 1) {
    const T other = __shfl_xor_sync(kAllLanes, value, mask);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace cupyna
