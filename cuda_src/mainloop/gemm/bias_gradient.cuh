// Gradient of the bias from gradients of scores in rows, `[batch, *spatial, heads, slots]`.
#pragma once

#include "../../common/gemm_params.cuh"
#include "../bias/entry.cuh"

namespace cupyna {

template <typename T>
struct GemmBiasGradient : BiasEntry<T, GemmParams> {
  using Base = BiasEntry<T, GemmParams>;
  using Base::params, Base::x_entry, Base::y_entry, Base::z_entry, Base::slot;
  using typename Base::Number;

  using Base::Base;

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
      const T* const row = params.gradient.template at<const T>(batch, x, y, 0, head) +
                           first * params.gradient.channel;
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
};

}  // namespace cupyna
