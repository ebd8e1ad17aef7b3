// The entries of the gradient of a bias: sums of what the blocks of FusedBiasGradientSm80 left.
//
// Tiles of keys at neighboring distances share offsets, and parts share pairs of tiles. A group of
// lanes takes the parts of an entry in turn, then adds its sums: the order depends on nothing else.
#pragma once

#include "../../common/attention_params.cuh"
#include "../../common/numeric.cuh"

namespace cupyna {

template <typename T>
struct FusedBiasSums {
  const BiasGradientParams& params;

  __device__ __forceinline__ explicit FusedBiasSums(const BiasGradientParams& params)
      : params(params) {}

  __device__ __forceinline__ void run() const {
    const int lane = threadIdx.x % params.lanes, head = blockIdx.y;
    const long long entry =
        (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / params.lanes;
    const int y_entries = entries(1), z_entries = entries(2);
    const long long plane = static_cast<long long>(y_entries) * z_entries;
    const bool is_there = entry < plane * entries(0);
    const int x = static_cast<int>(entry / plane), y = static_cast<int>(entry % plane / z_entries),
              z = static_cast<int>(entry % z_entries);
    float total = is_there ? sum(head, lane, x, y, z) : 0.f;
    for (int step = params.lanes / 2; step > 0; step /= 2) {
      total += __shfl_xor_sync(0xffffffffu, total, step);
    }
    if (is_there && lane == 0) *params.dbias.at<T>(0, x, y, z, head) = narrow<T>(total);
  }

 private:
  // Where one axis has an entry: tiles of keys [begin, end), and the offset in the first of them.
  struct Along {
    int begin, end, offset;
  };

  __device__ __forceinline__ int entries(int i) const { return 2 * params.axis[i].kernel_size - 1; }

  __device__ __forceinline__ int rows(int i) const { return 1 << params.tile[i].row_extent_log2; }

  __device__ __forceinline__ int offsets(int i) const {
    return rows(i) + params.tile[i].column_extent - 1;
  }

  __device__ __forceinline__ Along along(int i, int entry) const {
    const int columns = params.tile[i].column_extent;
    // Never negative: the first distance reaches the first entry.
    const int from_first = entry - (params.axis[i].kernel_size - 1) - params.distance[i].first;
    const int begin = from_first / columns;
    const int past = (from_first + rows(i) - 1) / columns + 1;
    const int tiles = params.distance[i].tiles;
    return Along{begin, past < tiles ? past : tiles, from_first - begin * columns + rows(i) - 1};
  }

  __device__ __forceinline__ float sum(int head, int lane, int x_entry, int y_entry,
                                       int z_entry) const {
    const Along x = along(0, x_entry), y = along(1, y_entry), z = along(2, z_entry);
    const TileAxis(&tile)[3] = params.tile;
    const long long distances = static_cast<long long>(params.distance[0].tiles) *
                                params.distance[1].tiles * params.distance[2].tiles;
    const long long of_pair = static_cast<long long>(offsets(0)) * offsets(1) * offsets(2);
    float total = 0;
#pragma unroll 1
    for (int part = lane; part < params.parts; part += params.lanes) {
      const float* found = params.partial_sums +
                           (static_cast<long long>(part) * gridDim.y + head) * distances * of_pair;

#pragma unroll 1
      for (int i = x.begin; i < x.end; ++i) {
        const int at_x = x.offset - (i - x.begin) * tile[0].column_extent;

#pragma unroll 1
        for (int j = y.begin; j < y.end; ++j) {
          const int at_y = y.offset - (j - y.begin) * tile[1].column_extent;

#pragma unroll 1
          for (int k = z.begin; k < z.end; ++k) {
            const int at_z = z.offset - (k - z.begin) * tile[2].column_extent;
            const long long pair = (static_cast<long long>(i) * params.distance[1].tiles + j) *
                                       params.distance[2].tiles +
                                   k;
            total += found[pair * of_pair + (at_x * offsets(1) + at_y) * offsets(2) + at_z];
          }
        }
      }
    }
    return total;
  }
};

}  // namespace cupyna
