// One entry of the bias to a lane: the queries and slots that it was added to.
#pragma once

#include "../common/weights.cuh"
#include "../geometry/run.cuh"

namespace cupyna {

// Queries that one warp takes at a time.
constexpr int kBiasRun = 32;

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

  __device__ Number sum(int head, int warp, int warps) const {
    Number total = 0;
    // Lines of queries, cut into runs of each dilation group of the last axis.
    const AxisParams& last = params.axis[2];
    const int longest = (last.length + last.dilation - 1) / last.dilation;
    const int runs = (longest + kBiasRun - 1) / kBiasRun;
    const long long lines = (long long)params.batch * params.axis[0].length * params.axis[1].length;
    const long long items = lines * last.dilation * runs;
    for (long long item = warp; item < items; item += warps) {
      long long rest = item;
      const int begin = int(rest % runs) * kBiasRun;
      rest /= runs;
      const int group = int(rest % last.dilation);
      rest /= last.dilation;
      const Place y = place_of(params.axis[1], int(rest % params.axis[1].length));
      rest /= params.axis[1].length;
      const Place x = place_of(params.axis[0], int(rest % params.axis[0].length));
      const int batch = int(rest / params.axis[0].length);
      const int x_slot = slot(x, x_entry);
      const int y_slot = slot(y, y_entry);
      if (x_slot < 0 || y_slot < 0) continue;
      const int slots = (x_slot * y.line.kernel_size + y_slot) * last.kernel_size;
      Place z{line_of(last, group), group, begin, last.dilation};
      const long long offset = offset_of(params.weights, batch, x.token(x.position),
                                         y.token(y.position), z.token(begin), head);
      total += with_weights<T>(params, offset + slots * params.weights.channel,
                               [&](const auto* stored) { return sum_run(stored, z); });
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

  // `stored` points at the first slot of the run's first query along z.
  template <typename Stored>
  __device__ __forceinline__ Number sum_run(const Stored* stored, Place z) const {
    const int count = min_of(kBiasRun, z.line.length - z.position);
    const long long step = z.dilation * params.weights.axis[2];
    Number total = 0;
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      const int z_slot = slot(z, z_entry);
      if (z_slot >= 0) total += widen(__ldg(stored + i * step + z_slot * params.weights.channel));
      ++z.position;
    }
    return total;
  }
};

}  // namespace cupyna
