// What keeps a warp's scores from being plain products: the masks of edge tiles, and the bias.
#pragma once

#include "../../common/numeric.cuh"
#include "../../softmax/online.cuh"
#include "tile_sm80.cuh"

namespace cupyna {

// The packed coordinates of a thread's two columns of eight.
template <typename Tile>
__device__ __forceinline__ uint2 fields_of(const Tile& tile, int column) {
  return *reinterpret_cast<const uint2*>(&tile.shared.fields[column + threadIdx.x % 4 * 2]);
}

// Puts `none` where a row has no such column; the scores are those of columns from `first` on.
template <typename Tile, int kRowTiles, int kPairs>
__device__ __forceinline__ void mask_scores(const Tile& tile, float (&scores)[kRowTiles][kPairs][4],
                                            const Coordinate& origin, int warp, float none,
                                            int first = 0) {
#pragma unroll
  for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
    const PackedWindow upper(tile.shared.windows[Tile::row_of(warp, row_tile, 0)], origin);
    const PackedWindow lower(tile.shared.windows[Tile::row_of(warp, row_tile, 1)], origin);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const uint2 fields = fields_of(tile, first + pair * 8);
      float (&four)[4] = scores[row_tile][pair];
      four[0] = upper.contains(fields.x) ? four[0] : none;
      four[1] = upper.contains(fields.y) ? four[1] : none;
      four[2] = lower.contains(fields.x) ? four[2] : none;
      four[3] = lower.contains(fields.y) ? four[3] : none;
    }
  }
}

// Scores times scale plus bias, in powers of two; -inf where the window has no such pair. The
// scores are those of columns from `first` on.
template <typename T, typename Tile, int kRowTiles, int kPairs>
__device__ __forceinline__ void add_bias(const Tile& tile, float (&scores)[kRowTiles][kPairs][4],
                                         const Coordinate& origin, int query_head, int warp,
                                         float scale_log2, int first = 0) {
  const Array& bias = tile.params.bias;
  const T* biases = static_cast<const T*>(bias.data) + query_head * bias.head;
  // The bias of a pair is found by key - query: columns count up where they are the keys.
  constexpr int kSign = Tile::kRowsAreQueries ? 1 : -1;
#pragma unroll
  for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Tile::row_of(warp, row_tile, half);
      const PackedWindow window(tile.shared.windows[row], origin);
      bool is_real;
      const Coordinate at = tile.position_of(row, is_real);
      const int x = kSign * (origin.x - at.x) + tile.line[0].kernel_size - 1;
      const int y = kSign * (origin.y - at.y) + tile.line[1].kernel_size - 1;
      const int z = kSign * (origin.z - at.z) + tile.line[2].kernel_size - 1;
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const uint2 fields = fields_of(tile, first + pair * 8);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const unsigned field = i == 0 ? fields.x : fields.y;
          float& score = scores[row_tile][pair][2 * half + i];
          if (!window.contains(field)) {
            score = -infinity();
            continue;
          }
          const Coordinate to = unpack_fields(field);
          const T value =
              biases[(x + kSign * to.x) * bias.axis[0] + (y + kSign * to.y) * bias.axis[1] +
                     (z + kSign * to.z) * bias.axis[2]];
          score = score * scale_log2 + widen(value) * kLog2E;
        }
      }
    }
  }
}

}  // namespace cupyna
