// What one block of a small-window kernel works on: a tile of queries and, in shared memory, the
// box of all keys and values that they see.
//
// The tile is a grid of warp tiles of 16 queries. The keys of one warp tile are a box inside the
// block's, of the same extents for all. Its keys are numbered, the last axis fastest: slots. A
// table says where a slot lies, counted from the warp's own corner, and ldmatrix gathers the rows.
//
// Where dilation leaves tiles that are a few queries, a block has the boxes of several heads side
// by side: what it finds out about a tile is the same for all of them.
#pragma once

#include "room_sm80.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kSlots, Side kSide, int kRowArrays, int kStages>
struct WindowTileSm80 : WindowRoomSm80<T, kHeadDim, kSlots, kSide, kRowArrays, kStages> {
  using Room = WindowRoomSm80<T, kHeadDim, kSlots, kSide, kRowArrays, kStages>;
  using Room::below, Room::extent, Room::fields, Room::fixed, Room::kHasRowStatistics;
  using Room::kPasses, Room::kRows, Room::kTokenBytes, Room::line_count, Room::lines;
  using Room::offsets, Room::operands, Room::params, Room::seen, Room::tiles, Room::warp_tiles;
  using Room::Room;
  using Room::warps, Room::window;
  using typename Room::Bounds;
  using typename Room::LinePlace;
  using typename Room::Row;
  using typename Room::WarpTile;
  using typename Room::Work;

  // Which tile of the grid a work is.
  __device__ __forceinline__ void place(unsigned work, int turn) const {
    // Not by the first or the last warp, which lay tables at the same time.
    const int i = threadIdx.x - (warps > 2 ? 32 : 0);
    if (i < 0 || i > kAxes || work >= window.works) return;
    Work& placed = fixed().works[turn];
    unsigned rest = work / window.head_blocks;
    if (i == kAxes) placed.head = (work - rest * window.head_blocks) * window.heads;
    for (int j = kAxes - 1; j > i; --j) rest /= params.tile[j].row_tiles;
    if (i == kAxes) {
      for (int j = kAxes - 1; j >= 0; --j) rest /= params.tile[j].row_tiles;
      placed.batch = rest;
      return;
    }
    const AxisParams& axis = params.axis[i];
    const AxisTiling tiling{axis.length,   axis.kernel_size,    axis.stride,
                            axis.dilation, axis.is_causal != 0, extent(i)};
    placed.own[i] = tiling.tile(static_cast<int>(rest % params.tile[i].row_tiles), kSide);
    placed.line[i] = tiling.line(placed.own[i].group);
  }

  __device__ __forceinline__ long long offset_of(const Array& array, const Work& work,
                                                 const Coordinate& at) const {
    const int x = work.own[0].group + at.x * params.axis[0].dilation;
    const int y = work.own[1].group + at.y * params.axis[1].dilation;
    const int z = work.own[2].group + at.z * params.axis[2].dilation;
    return work.batch * array.batch + x * array.axis[0] + y * array.axis[1] + z * array.axis[2];
  }

  // Place of a position in [tokens].
  __device__ __forceinline__ long long token_of(const Work& work, const Coordinate& at) const {
    const AxisParams(&axis)[kAxes] = params.axis;
    const long long x = work.own[0].group + at.x * axis[0].dilation;
    const int y = work.own[1].group + at.y * axis[1].dilation;
    const int z = work.own[2].group + at.z * axis[2].dilation;
    return (x * axis[1].length + y) * axis[2].length + z;
  }

  __device__ __forceinline__ const Statistics* statistics_of(const Work& work, int head) const {
    const long long tokens = static_cast<long long>(params.axis[0].length) * params.axis[1].length *
                             params.axis[2].length;
    const int heads = window.head_blocks * window.heads * params.head_group;
    return operands.statistics + (static_cast<long long>(work.batch) * heads + head) * tokens;
  }

  __device__ __forceinline__ void lay_lines() const {
    const WindowAxis(&axes)[kAxes] = window.axis;
    const int tokens = params.axis[0].length * params.axis[1].length * params.axis[2].length;
    for (int i = threadIdx.x; i < line_count(); i += blockDim.x) {
      const int of_x = i / axes[1].box, head = of_x / axes[0].box;
      const int x = of_x - head * axes[0].box, y = i - of_x * axes[1].box;
      const int row = x * params.axis[0].dilation * params.axis[1].length;
      const Coordinate at{x, y, 0};
      lines()[i] =
          LinePlace{step(operands.first_column, at) + head * operands.first_column.head,
                    step(operands.second_column, at) + head * operands.second_column.head,
                    head * window.head_tokens + x * axes[0].pitch + y * axes[1].pitch,
                    head * tokens + (row + y * params.axis[1].dilation) * params.axis[2].length,
                    static_cast<short>(x),
                    static_cast<short>(y)};
    }
  }

  __device__ __forceinline__ void lay_slots() const {
    const WindowAxis(&axes)[kAxes] = window.axis;
    for (int i = threadIdx.x; i < window.blocks_of_slots * kSlots; i += blockDim.x) {
      const int rest = i / axes[2].slots, z = i - rest * axes[2].slots;
      const int x = rest / axes[1].slots, y = rest - x * axes[1].slots;
      const bool is_padding = x >= axes[0].slots;
      const int token = x * axes[0].pitch + y * axes[1].pitch + z;
      offsets()[i] = is_padding ? 0 : token * kTokenBytes;
      fields()[i] = is_padding ? outside_fields() : pack_fields(x, y, z);
    }
  }

  // Bit 2n + i of word [coordinate][block][c] stands for slot 8n + 2c + i of the block: those that
  // lane c of a quad holds the scores of.
  __device__ __forceinline__ void lay_masks() const {
    int axis_words = 0;
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      const int words = (window.axis[axis].slots + 1) * window.blocks_of_slots * 4;
      for (int i = threadIdx.x; i < words; i += blockDim.x) {
        const int block = i / 4 % window.blocks_of_slots;
        const unsigned coordinate = i / 4 / window.blocks_of_slots;
        const uint2* pairs = reinterpret_cast<const uint2*>(fields() + block * kSlots) + i % 4;
        unsigned word = 0;
#pragma unroll
        for (int n = 0; n < kSlots / 8; ++n) {
          const uint2 pair = pairs[4 * n];
          word |= field(pair.x, axis) < coordinate ? 1u << 2 * n : 0u;
          word |= field(pair.y, axis) < coordinate ? 2u << 2 * n : 0u;
        }
        below()[axis_words + i] = word;
      }
      axis_words += words;
    }
  }

  static __device__ __forceinline__ unsigned field(unsigned packed, int axis) {
    return packed >> axis * kFieldBits & kFieldMost;
  }

  __device__ __forceinline__ void lay_rows() const {
    if (threadIdx.x >= kRows) return;
    const int log2_y = window.axis[1].warp_extent_log2;
    const int log2_z = window.axis[2].warp_extent_log2;
    const int row = threadIdx.x;
    const Coordinate at{row >> (log2_y + log2_z), row >> log2_z & ((1 << log2_y) - 1),
                        row & ((1 << log2_z) - 1)};
    const AxisParams(&axis)[kAxes] = params.axis;
    const int line = at.x * axis[0].dilation * axis[1].length + at.y * axis[1].dilation;
    fixed().rows[row] =
        Row{step(operands.first_row, at), step(operands.second_row, at),
            pack_fields(at.x, at.y, at.z), line * axis[2].length + at.z * axis[2].dilation};
  }

  // What the rows of a work meet, and its warp tiles.
  __device__ __forceinline__ void lay_tables(const Work& work, int side) const {
    const int of_x = extent(0), of_y = of_x + extent(1), positions = of_y + extent(2);
    for (int i = threadIdx.x; i < kPasses * positions; i += blockDim.x) {
      const int pass = i < positions ? 0 : 1, from = i - pass * positions;
      const int axis = from < of_x ? 0 : from < of_y ? 1 : 2;
      const int position = from - (axis == 0 ? 0 : axis == 1 ? of_x : of_y);
      seen(side)[i] = words_of(work, axis, position, pass);
    }
    // The last threads begin, while the first are at the positions.
    for (int i = blockDim.x - 1 - threadIdx.x; i < warp_tiles(); i += blockDim.x) {
      tiles(side)[i] = warp_tile(work, i);
    }
  }

  // Positions past the end of a line repeat its last one.
  static __device__ __forceinline__ Interval columns_at(const Work& work, int axis, int position) {
    const AxisTile& own = work.own[axis];
    const Line& line = work.line[axis];
    const int at = min_of(own.begin + position, own.end - 1);
    if (kSide == Side::kKey) {
      return {line.query_begin(at) - own.box_begin, line.query_end(at) - own.box_begin};
    }
    return {line.window_begin(at) - own.box_begin, line.window_end(at) - own.box_begin};
  }

  // Where the slots of the warp tile that begins at a position begin in the block's box. They are
  // moved back where they would pass its end.
  __device__ __forceinline__ int corner_of(const Work& work, int axis, int position,
                                           int pass) const {
    const WindowAxis& along = window.axis[axis];
    const int begin = columns_at(work, axis, position).begin + pass * along.slots;
    return min_of(begin, along.box - along.slots);
  }

  __device__ __forceinline__ unsigned words_of(const Work& work, int axis, int position,
                                               int pass) const {
    const WindowAxis& along = window.axis[axis];
    const Interval columns = columns_at(work, axis, position);
    const int log2 = along.warp_extent_log2, first = position >> log2 << log2;
    const int corner = corner_of(work, axis, first, pass);
    // A second pass takes what the first one left.
    const int taken = pass == 0 ? 0 : corner_of(work, axis, first, 0) + along.slots - corner;
    const int entry = window.blocks_of_slots * 4;
    int words = 0;
    for (int i = 0; i < axis; ++i) words += (window.axis[i].slots + 1) * entry;
    const int begin = min_of(max_of(columns.begin - corner, taken), along.slots);
    const int end = min_of(max_of(columns.end - corner, begin), along.slots);
    return words + begin * entry | words + end * entry << 16;
  }

  // Columns from the first pass to the second, 0 where one is enough.
  __device__ __forceinline__ int again_of(const Work& work, int axis, int position) const {
    if (kPasses == 1) return 0;
    const WindowAxis& along = window.axis[axis];
    const int corner = corner_of(work, axis, position, 0);
    const int last = position + (1 << along.warp_extent_log2) - 1;
    if (columns_at(work, axis, last).end <= corner + along.slots) return 0;
    return corner_of(work, axis, position, 1) - corner;
  }

  __device__ __forceinline__ WarpTile warp_tile(const Work& work, int index) const {
    const WindowAxis(&axes)[kAxes] = window.axis;
    const int of_y = index / axes[2].warp_tiles, of_x = of_y / axes[1].warp_tiles;
    const int of_head = of_x / axes[0].warp_tiles;  // of the block's queries
    const Coordinate first{of_x - of_head * axes[0].warp_tiles << axes[0].warp_extent_log2,
                           of_y - of_x * axes[1].warp_tiles << axes[1].warp_extent_log2,
                           index - of_y * axes[2].warp_tiles << axes[2].warp_extent_log2};
    const Coordinate query{work.own[0].begin + first.x, work.own[1].begin + first.y,
                           work.own[2].begin + first.z};
    const Coordinate last{work.own[0].end - 1 - query.x, work.own[1].end - 1 - query.y,
                          work.own[2].end - 1 - query.z};
    const bool is_real = last.x >= 0 && last.y >= 0 && last.z >= 0;
    const int head = work.head * params.head_group + of_head;
    const int token = of_head / params.head_group * window.head_tokens +
                      corner_of(work, 0, first.x, 0) * axes[0].pitch +
                      corner_of(work, 1, first.y, 0) * axes[1].pitch +
                      corner_of(work, 2, first.z, 0);
    WarpTile tile;
    tile.first = offset_of(operands.first_row, work, query) + head * operands.first_row.head;
    tile.second = offset_of(operands.second_row, work, query) + head * operands.second_row.head;
    tile.corner = pack_fields(first.x, first.y, first.z);
    tile.last = is_real ? last_fields(last.x, last.y, last.z) : 0;
    tile.again = pack_fields(again_of(work, 0, first.x), again_of(work, 1, first.y),
                             again_of(work, 2, first.z));
    tile.columns = token * kTokenBytes;
    tile.head = is_real ? head : -1;
    if constexpr (kHasRowStatistics) {
      tile.query = statistics_of(work, head) - operands.statistics + token_of(work, query);
    }
    return tile;
  }

  // Of the row at a packed coordinate of the block's tile, in a pass along each axis.
  __device__ __forceinline__ Bounds bounds_at(int side, unsigned packed,
                                              const Coordinate& pass) const {
    const Coordinate at = unpack_fields(packed);
    const unsigned* words = seen(side);
    const int of_y = extent(0), of_z = of_y + extent(1), positions = of_z + extent(2);
    return Bounds{{words[pass.x * positions + at.x], words[pass.y * positions + of_y + at.y],
                   words[pass.z * positions + of_z + at.z]}};
  }

  static __device__ __forceinline__ bool is_not_past(const Row& row, unsigned last) {
    return ((last - row.field) & kGuards) == kGuards;
  }

  __device__ __forceinline__ long long step(const Array& array, const Coordinate& at) const {
    return at.x * params.axis[0].dilation * array.axis[0] +
           at.y * params.axis[1].dilation * array.axis[1] +
           at.z * params.axis[2].dilation * array.axis[2];
  }
};

}  // namespace cupyna
