// Copies of a small-window kernel into shared memory: a block's box of columns and a warp's rows.
#pragma once

#include "../../ptx/shared_memory.cuh"
#include "tile_sm80.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kSlots, Side kSide, int kRowArrays, int kStages>
struct WindowCopiesSm80 : WindowTileSm80<T, kHeadDim, kSlots, kSide, kRowArrays, kStages> {
  using Tile = WindowTileSm80<T, kHeadDim, kSlots, kSide, kRowArrays, kStages>;
  using Tile::kArrayBytes, Tile::kChunks, Tile::kRowBytes, Tile::kRows, Tile::kTokenBytes;
  using Tile::lane, Tile::operands, Tile::params, Tile::window;
  using Tile::Tile;
  using typename Tile::LinePlace;
  using typename Tile::Row;
  using typename Tile::WarpTile;
  using typename Tile::Work;

  // Begins to copy the box, a token to as many threads as a key has chunks. What lies past the end
  // of a line is zero.
  __device__ __forceinline__ void copy_box(const Work& work) const {
    const int chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
    const int together = blockDim.x / kChunks;
    const int extent = window.axis[2].box, count = Tile::line_count();
    const bool has_first = chunk * 8 < params.head_dim, has_second = chunk * 8 < params.value_dim;
    // A box without a column may begin past the end.
    const Coordinate corner{min_of(work.own[0].box_begin, work.line[0].length - 1),
                            min_of(work.own[1].box_begin, work.line[1].length - 1),
                            min_of(work.own[2].box_begin, work.line[2].length - 1)};
    const Coordinate left{work.line[0].length - corner.x, work.line[1].length - corner.y,
                          work.line[2].length - corner.z};
    const T* firsts = column(operands.first_column, work, corner, has_first ? chunk * 8 : 0);
    const T* seconds = column(operands.second_column, work, corner, has_second ? chunk * 8 : 0);
    const Statistics* statistics = nullptr;
    if (kSide == Side::kKey) {
      statistics = Tile::statistics_of(work, work.head) + Tile::token_of(work, corner);
    }
    const int gap = params.axis[2].dilation;
    const long long first_step = gap * operands.first_column.axis[2];
    const long long second_step = gap * operands.second_column.axis[2];
    const unsigned target = ptx::shared_address(Tile::tokens());
    const int lines_on = together / extent, z_on = together - lines_on * extent;
    int line = first / extent, z = first - line * extent;
#pragma unroll 2
    while (line < count) {
      const LinePlace at = Tile::lines()[line];
      const bool is_there = z < left.z && at.y < left.y && at.x < left.x;
      const unsigned to = target + (at.token + z) * kTokenBytes;
      ptx::copy_async_16(to + chunk * 16, is_there ? firsts + at.first + z * first_step : firsts,
                         is_there && has_first ? 16 : 0);
      ptx::copy_async_16(to + kHeadDim * 2 + chunk * 16,
                         is_there ? seconds + at.second + z * second_step : seconds,
                         is_there && has_second ? 16 : 0);
      if (kSide == Side::kKey && chunk == 0) {
        ptx::copy_async_8(to + kHeadDim * 4,
                          is_there ? statistics + at.query + z * gap : statistics,
                          is_there ? 8 : 0);
      }
      z += z_on;
      line += lines_on;
      if (z >= extent) {
        z -= extent;
        ++line;
      }
    }
  }

  __device__ __forceinline__ const T* column(const Array& array, const Work& work,
                                             const Coordinate& at, int channel) const {
    return static_cast<const T*>(array.data) + work.head * array.head +
           Tile::offset_of(array, work, at) + channel;
  }

  // Begins to copy the rows of a warp tile, in 16-byte chunks.
  __device__ __forceinline__ void copy_rows(int side, int index, int stage) const {
    if (index < Tile::warp_tiles() && Tile::tiles(side)[index].head >= 0) {
      const WarpTile& tile = Tile::tiles(side)[index];
      if constexpr (Tile::kHasRowStatistics) copy_statistics(Tile::rows(stage), tile);
      copy_rows(operands.first_row, Tile::rows(stage), tile, tile.first, params.head_dim,
                [](const Row& row) { return row.first; });
      if constexpr (kRowArrays == 2) {
        copy_rows(operands.second_row, Tile::rows(stage) + kArrayBytes, tile, tile.second,
                  params.value_dim, [](const Row& row) { return row.second; });
      }
    }
    ptx::copy_async_commit();
  }

  // After the rows of the first array.
  __device__ __forceinline__ void copy_statistics(unsigned char* target,
                                                  const WarpTile& tile) const {
    if (lane >= kRows) return;
    const Row from = Tile::fixed().rows[lane];
    const bool is_there = Tile::is_not_past(from, tile.last);
    ptx::copy_async_8(ptx::shared_address(target) + lane * kRowBytes + kChunks * 16,
                      operands.statistics + tile.query + (is_there ? from.query : 0),
                      is_there ? 8 : 0);
  }

  template <typename OffsetOf>
  __device__ __forceinline__ void copy_rows(const Array& array, unsigned char* target,
                                            const WarpTile& tile, long long first, int channels,
                                            OffsetOf offset_of_row) const {
    const T* source = static_cast<const T*>(array.data) + first;
    const unsigned last = tile.last;
#pragma unroll
    for (int i = lane; i < kRows * kChunks; i += 32) {
      const int chunk = i % kChunks;
      const Row from = Tile::fixed().rows[i / kChunks];
      const bool is_there = chunk * 8 < channels && Tile::is_not_past(from, last);
      ptx::copy_async_16(ptx::shared_address(target) + i / kChunks * kRowBytes + chunk * 16,
                         is_there ? source + offset_of_row(from) + chunk * 8 : source,
                         is_there ? 16 : 0);
    }
  }
};

}  // namespace cupyna
