// Masks of scores in the registers of a warpgroup: rows with windows against a tile of columns.
#pragma once

#include "../../common/warp.cuh"
#include "../../geometry/column_bits.cuh"

namespace cupyna {

template <int kColumns>
struct MasksSm90 {
  static constexpr int kWords = (kColumns + 31) / 32;
  static constexpr int kSetWords = (kWords + 3) / 4 * 4;
  using Sets = unsigned[kColumns + 5][kSetWords];  // see KeyExtents

  const KeyExtents columns;
  const Sets& sets;

  static __device__ __forceinline__ void lay(Sets& sets, const KeyExtents& columns, int thread,
                                             int threads) {
    const int lane = thread % 32, product = columns.product();
#pragma unroll 1
    for (int word = 0; word < kSetWords; ++word) {
      const int column = word * 32 + lane;
      const Coordinate at = columns.coordinate_of(column);
      for (int set = thread / 32; set < columns.sets(); set += threads / 32) {
        const unsigned bits = __ballot_sync(kAllLanes, column < product && columns.holds(set, at));
        if (lane == 0) sets[set][word] = bits;
      }
    }
  }

  // Whether all columns are wanted by all sixteen rows of the warp. They are a box: its first row's
  // windows end first, its last row's begin last.
  __device__ __forceinline__ bool all_see(const Window* windows, const Coordinate& origin) const {
    const Window& first = windows[0];
    const Window& last = windows[15];
    return columns.product() == kColumns && last.x.begin <= origin.x &&
           origin.x + columns.x <= first.x.end && last.y.begin <= origin.y &&
           origin.y + columns.y <= first.y.end && last.z.begin <= origin.z &&
           origin.z + columns.z <= first.z.end;
  }

  // Puts zero where a row does not want one of kCount columns, from a word of columns on.
  template <int kCount>
  __device__ __forceinline__ void clear(float (&weights)[kCount / 2], const Window* windows,
                                        const Coordinate& origin, int first_word) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      unsigned bits[kSetWords];
      columns_of(bits, windows[half * 8 + lane / 4], origin);
#pragma unroll
      for (int word = 0; word < kWords; ++word) bits[word] >>= lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < kCount / 8; ++i) {
        float& left = weights[4 * i + 2 * half];
        float& right = weights[4 * i + 2 * half + 1];
        left = bits[first_word + i / 4] & 1u << i % 4 * 8 ? left : 0.f;
        right = bits[first_word + i / 4] & 2u << i % 4 * 8 ? right : 0.f;
      }
    }
  }

 private:
  __device__ __forceinline__ void columns_of(unsigned (&bits)[kSetWords], const Window& window,
                                             const Coordinate& origin) const {
    const Interval x = inside(window.x, origin.x, columns.x);
    const Interval y = inside(window.y, origin.y, columns.y);
    const Interval z = inside(window.z, origin.z, columns.z);
    const int of_y = columns.first_set_of_y(), of_z = columns.first_set_of_z();
#pragma unroll
    for (int i = 0; i < kSetWords; i += 4) {
      const uint4 from_x = set(x.begin, i), past_x = set(x.end, i);
      const uint4 from_y = set(of_y + y.begin, i), past_y = set(of_y + y.end, i);
      const uint4 from_z = set(of_z + z.begin, i), past_z = set(of_z + z.end, i);
      bits[i] = from_x.x & from_y.x & from_z.x & ~(past_x.x | past_y.x | past_z.x);
      bits[i + 1] = from_x.y & from_y.y & from_z.y & ~(past_x.y | past_y.y | past_z.y);
      bits[i + 2] = from_x.z & from_y.z & from_z.z & ~(past_x.z | past_y.z | past_z.z);
      bits[i + 3] = from_x.w & from_y.w & from_z.w & ~(past_x.w | past_y.w | past_z.w);
    }
  }

  __device__ __forceinline__ uint4 set(int index, int word) const {
    return *reinterpret_cast<const uint4*>(&sets[index][word]);
  }
};

}  // namespace cupyna
