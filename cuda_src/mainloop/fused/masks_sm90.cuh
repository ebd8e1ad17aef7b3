// Masks of scores in the registers of a warpgroup: rows with windows against a tile of columns.
//
// A thread holds columns 8 j + 2 (lane % 4) + {0, 1} of two rows. Sets of columns are stored as the
// bits of each of four such lanes, so that a thread reads and combines its own columns only.
#pragma once

#include "../../common/warp.cuh"
#include "../../geometry/column_bits.cuh"

namespace cupyna {

template <int kColumns>
struct MasksSm90 {
  static constexpr int kQuad = 4;
  static constexpr int kWords = (kColumns / kQuad + 31) / 32;
  using Sets = unsigned[kColumns + 5][kQuad][kWords];  // see KeyExtents
  using Bits = unsigned[2][kWords];                    // a thread's columns of both of its rows

  const KeyExtents columns;
  const Sets& sets;

  static __device__ __forceinline__ void lay(Sets& sets, const KeyExtents& columns, int thread,
                                             int threads) {
    const int lane = thread % 32, product = columns.product();
#pragma unroll 1
    for (int word = 0; word < kQuad * kWords; ++word) {
      const int member = word / kQuad * 32 + lane;
      const int column = member / 2 * 8 + word % kQuad * 2 + member % 2;
      const Coordinate at = columns.coordinate_of(column);
      for (int set = thread / 32; set < columns.sets(); set += threads / 32) {
        const unsigned bits = __ballot_sync(kAllLanes, column < product && columns.holds(set, at));
        if (lane == 0) sets[set][word % kQuad][word / kQuad] = bits;
      }
    }
  }

  // What all sixteen rows of a warp see. They are a box: its first row's windows end first, its
  // last row's begin last.
  static __device__ __forceinline__ Window common(const Window* windows) {
    const Window& first = windows[0];
    const Window& last = windows[15];
    return Window{Interval{last.x.begin, first.x.end}, Interval{last.y.begin, first.y.end},
                  Interval{last.z.begin, first.z.end}};
  }

  // Whether all columns are wanted by rows of whose windows this is in common.
  __device__ __forceinline__ bool all_see(const Window& common, const Coordinate& origin) const {
    // Without branches: all numbers are under way at a time.
    return (columns.product() == kColumns) & (common.x.begin <= origin.x) &
           (origin.x + columns.x <= common.x.end) & (common.y.begin <= origin.y) &
           (origin.y + columns.y <= common.y.end) & (common.z.begin <= origin.z) &
           (origin.z + columns.z <= common.z.end);
  }

  // The columns that the thread's rows want, of a warp's sixteen windows.
  __device__ __forceinline__ void find(Bits& bits, const Window* windows,
                                       const Coordinate& origin) const {
    const int of_y = columns.first_set_of_y(), of_z = columns.first_set_of_z();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Window& window = windows[half * 8 + threadIdx.x % 32 / 4];
      const Interval x = inside(window.x, origin.x, columns.x);
      const Interval y = inside(window.y, origin.y, columns.y);
      const Interval z = inside(window.z, origin.z, columns.z);
#pragma unroll
      for (int word = 0; word < kWords; ++word) {
        bits[half][word] = set(x.begin, word) & set(of_y + y.begin, word) &
                           set(of_z + z.begin, word) &
                           ~(set(x.end, word) | set(of_y + y.end, word) | set(of_z + z.end, word));
      }
    }
  }

  // Puts `otherwise` where a row does not want one of kCount columns, from one that begins a word
  // of 32 on: of all of them, or of one of as many slices.
  template <int kCount, int kSlices = 1>
  static __device__ __forceinline__ void select(float (&values)[kCount / 2], const Bits& bits,
                                                int first_word, float otherwise, int slice = 0) {
    constexpr int kSteps = kCount / 8 / kSlices;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = slice * kSteps; i < (slice + 1) * kSteps; ++i) {
        const int member = first_word * 8 + 2 * i;
        const unsigned word = bits[half][member / 32];
        float& left = values[4 * i + 2 * half];
        float& right = values[4 * i + 2 * half + 1];
        left = word & 1u << member % 32 ? left : otherwise;
        right = word & 2u << member % 32 ? right : otherwise;
      }
    }
  }

 private:
  __device__ __forceinline__ unsigned set(int index, int word) const {
    return sets[index][threadIdx.x % kQuad][word];
  }
};

}  // namespace cupyna
