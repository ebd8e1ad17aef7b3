// Gradient of the bias: gradients of scores, summed by relative position, one entry to a lane.
//
// A block owns 32 neighboring entries along the last axis. Its warps take queries in turn, and
// their partial sums are added in the order of the warps: every run gives the same bits.
#pragma once

#include "../../common/numeric.cuh"
#include "../../geometry/run.cuh"

namespace cupyna {

// `TheParams` has the axes and the bias's array.
template <typename T, typename TheParams>
struct BiasEntry {
  using Number = Wide<T>;

  const TheParams& params;
  int x_entry, y_entry, z_entry;

  // `block` counts groups of 32 entries along z, then entries along y, then along x.
  __device__ BiasEntry(const TheParams& given, int block, int lane) : params(given) {
    const int parts = (entries(2) + 31) / 32;
    z_entry = block % parts * 32 + lane;
    y_entry = block / parts % entries(1);
    x_entry = block / parts / entries(1);
  }

  __device__ bool exists() const { return z_entry < entries(2); }

  __device__ void store(int head, Number total) const {
    *(params.bias.template at<T>(0, x_entry, y_entry, z_entry, head)) = narrow<T>(total);
  }

  // The slot of a query at which an entry was added, or -1.
  static __device__ __forceinline__ int slot(const Place& place, int entry) {
    const int key = place.position + entry - (place.line.kernel_size - 1);
    const int begin = place.line.window_begin(place.position);
    return key >= begin && key < place.line.window_end(place.position) ? key - begin : -1;
  }

 private:
  __device__ int entries(int axis) const { return 2 * params.axis[axis].kernel_size - 1; }
};

// `Entry` is one of these that knows its sum over the queries that fall to a warp.
template <typename Entry, int kWarps, typename TheParams>
__device__ __forceinline__ void sum_bias(const TheParams& params) {
  using Number = typename Entry::Number;
  __shared__ Number sums[kWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int head = blockIdx.y; head < params.heads; head += gridDim.y) {
    const Entry entry(params, blockIdx.x, lane);
    sums[warp][lane] = entry.sum(head, warp, kWarps);
    __syncthreads();
    if (warp == 0 && entry.exists()) {
      Number total = 0;
      for (int i = 0; i < kWarps; ++i) total += sums[i][lane];
      entry.store(head, total);
    }
    __syncthreads();
  }
}

}  // namespace cupyna
