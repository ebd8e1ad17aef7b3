// One entry of the bias to a lane: the pairs of query and key that it was added to.
#pragma once

#include "../../common/numeric.cuh"
#include "../../geometry/run.cuh"

namespace cupyna {

template <typename T>
struct NaiveBiasGradient {
  using Number = Wide<T>;

  const Params& params;
  int x_entry, y_entry, z_entry;

  // `block` counts groups of 32 entries along z, then entries along y, then along x.
  __device__ NaiveBiasGradient(const Params& given, int block, int lane) : params(given) {
    const int parts = (entries(2) + 31) / 32;
    z_entry = block % parts * 32 + lane;
    y_entry = block / parts % entries(1);
    x_entry = block / parts / entries(1);
  }

  __device__ bool exists() const { return z_entry < entries(2); }

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
