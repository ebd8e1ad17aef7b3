// Groups of lanes inside a warp. All lanes of a warp execute every one of these together.
#pragma once

namespace cupyna {

constexpr unsigned kAllLanes = 0xffffffffu;

// `count` neighboring lanes that work on one run, or one row.
struct Lanes {
  int count;
  int index;  // in the group
  int group;  // in the block

  __device__ explicit Lanes(int lanes)
      : count(lanes), index(threadIdx.x & (lanes - 1)), group(threadIdx.x / lanes) {}

  __device__ static int groups(int lanes) { return blockDim.x / lanes; }

  template <typename T>
  __device__ __forceinline__ T sum(T value) const {
    for (int mask = 1; mask < count; mask <<= 1) value += __shfl_xor_sync(kAllLanes, value, mask);
    return value;
  }
};

// The largest value of a warp: groups that need fewer steps repeat one, and none waits for another.
__device__ __forceinline__ int warp_max(int value) { return __reduce_max_sync(kAllLanes, value); }

// Among four neighboring lanes: word i of lane q and word q of lane i change places.
__device__ __forceinline__ void transpose_over_quad(unsigned (&words)[4]) {
#pragma unroll
  for (int step = 1; step < 4; step <<= 1) {
    const bool is_high = threadIdx.x & step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      unsigned& low = words[i];
      unsigned& high = words[i | step];
      const unsigned taken = __shfl_xor_sync(kAllLanes, is_high ? low : high, step);
      (is_high ? low : high) = taken;
    }
  }
}

// Sums each of kValues values over a group of kLanes lanes. The sums are dealt out: afterwards
// values[i] of a lane is the sum of value i * kShares + lane % kShares, where kShares is the
// smaller of the two counts. Each step sends away half of what is left, so it costs hardly more
// than one sum.
template <int kLanes, int kValues, typename T>
__device__ __forceinline__ void deal_sums(T (&values)[kValues], int lane) {
  int left = kValues;
#pragma unroll
  for (int mask = 1; mask < kLanes; mask <<= 1) {
    if (left == 1) {
      values[0] += __shfl_xor_sync(kAllLanes, values[0], mask);
      continue;
    }
    left /= 2;
    const bool keeps_odd = lane & mask;
#pragma unroll
    for (int i = 0; i < kValues / 2; ++i) {
      if (i >= left) break;
      const T even = values[2 * i];
      const T odd = values[2 * i + 1];
      const T given = __shfl_xor_sync(kAllLanes, keeps_odd ? even : odd, mask);
      values[i] = (keeps_odd ? odd : even) + given;
    }
  }
}

}  // namespace cupyna
