// One entry of the bias to a lane: gradients of the scores that it was added to.
#pragma once

#include "../../common/gemm_params.cuh"
#include "../../common/numeric.cuh"
#include "../../geometry/run.cuh"

namespace cupyna {

template <typename T>
struct GemmBiasGradient {
  using Number = Wide<T>;

  const GemmParams& params;
  int x_entry, y_entry, z_entry;

  // `block` counts groups of 32 entries along z, then entries along y, then along x.
  __device__ GemmBiasGradient(const GemmParams& given, int block, int lane) : params(given) {
    const int parts = (entries(2) + 31) / 32;
    z_entry = block % parts * 32 + lane;
    y_entry = block / parts % entries(1);
    x_entry = block / parts / entries(1);
  }

  __device__ bool exists() const { return z_entry < entries(2); }

  // Sum over the lines of queries along z that fall to this warp.
  __device__ Number sum(int head, int warp, int warps) const {
    const int x_length = params.axis[0].length, y_length = params.axis[1].length;
    const long long lines = (long long)params.batch * x_length * y_length;
    Number total = 0;
    for (long long line = warp; line < lines; line += warps) {
      const int y = static_cast<int>(line % y_length);
      const int x = static_cast<int>(line / y_length % x_length);
      const int batch = static_cast<int>(line / y_length / x_length);
      const int x_slot = slot(place_of(params.axis[0], x), x_entry);
      const int y_slot = slot(place_of(params.axis[1], y), y_entry);
      if (x_slot < 0 || y_slot < 0) continue;
      const int first = (x_slot * params.axis[1].kernel_size + y_slot) * params.axis[2].kernel_size;
      const T* const row =
          params.gradient.at<const T>(batch, x, y, 0, head) + first * params.gradient.channel;
#pragma unroll 4
      for (int z = 0; z < params.axis[2].length; ++z) {
        const int z_slot = slot(place_of(params.axis[2], z), z_entry);
        if (z_slot >= 0) {
          total += widen(row[z * params.gradient.axis[2] + z_slot * params.gradient.channel]);
        }
      }
    }
    return total;
  }

  __device__ void store(int head, Number total) const {
    *(params.bias.at<T>(0, x_entry, y_entry, z_entry, head)) = narrow<T>(total);
  }

 private:
  __device__ int entries(int axis) const { return 2 * params.axis[axis].kernel_size - 1; }

  // The slot of a query at which an entry was added, or -1.
  static __device__ __forceinline__ int slot(const Place& place, int entry) {
    const int key = place.position + entry - (place.line.kernel_size - 1);
    const int begin = place.line.window_begin(place.position);
    return key >= begin && key < place.line.window_end(place.position) ? key - begin : -1;
  }
};

}  // namespace cupyna
