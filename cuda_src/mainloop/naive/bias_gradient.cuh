// Gradient of the bias from gradients of scores in blocks of runs. The slots that name a warp's
// entries are neighbors in memory.
#pragma once

#include "../bias/entry.cuh"

namespace cupyna {

template <typename T>
struct NaiveBiasGradient : BiasEntry<T, Params> {
  using Base = BiasEntry<T, Params>;
  using Base::params, Base::x_entry, Base::y_entry, Base::z_entry, Base::slot;
  using typename Base::Number;

  using Base::Base;

  // Sum over the runs of all batch entries that fall to this warp.
  __device__ Number sum(int head, int warp, int warps) const {
    Number total = 0;
    for (int batch = 0; batch < params.batch; ++batch) {
      for (int item = warp; item < params.items; item += warps) {
        const Run run(params, item, params.items);
        const int x_slot = slot(run.x, x_entry);
        const int y_slot = slot(run.y, y_entry);
        if (x_slot < 0 || y_slot < 0 || !run.is_active) continue;
        const Quad<Number>* quads = block_of<Number>(params, params.weights, batch, head, item) +
                                    (x_slot * params.axis[1].kernel_size + y_slot) * params.keys;
        total += sum_run(run, quads);
      }
    }
    return total;
  }

 private:
  // Quads hold zero where a query does not see a key.
  __device__ __forceinline__ Number sum_run(const Run& run, const Quad<Number>* quads) const {
    const int begin = run.z.line.window_begin(run.z.position);
    const int first = run.z.position + z_entry - (run.z.line.kernel_size - 1) - begin;
    Number total = 0;
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      const int key = first + t;
      if (t < run.count && 0 <= key && key < params.keys) total += quads[key].query[t];
    }
    return total;
  }
};

}  // namespace cupyna
