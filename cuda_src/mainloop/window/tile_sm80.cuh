// What one block of a small-window kernel works on: a tile of queries and, in shared memory, the
// box of all keys and values that they see.
//
// The tile is a grid of warp tiles of 16 queries. The keys of one warp tile are a box inside the
// block's, of the same extents for all. Its keys are numbered, the last axis fastest: slots. A
// table says where a slot lies, counted from the warp's own corner, and ldmatrix gathers the rows.
//
// A token's row is its key, its value, and 16 bytes that nobody reads: an odd number of chunks. The
// pitches of the box are such that slot i lies at row i modulo 8, counted from the corner, so that
// eight neighboring slots lie in different banks wherever the warp's box breaks.
//
// Masks are bits. The table `below` holds, for each coordinate along each axis, which slots lie
// before it; a window is the intersection of three differences of such sets.
#pragma once

#include "../../common/window_params.cuh"
#include "../../geometry/box.cuh"
#include "../../ptx/shared_memory.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kSlots>
struct WindowTileSm80 {
  static constexpr int kRows = 16;
  static constexpr int kChunks = kHeadDim / 8;  // of 16 bytes, of a key or a value
  static constexpr int kRowBytes = kHeadDim * 2 + 16;
  static constexpr int kTokenBytes = 2 * kHeadDim * 2 + 16;
  static constexpr int kStageBytes = kRows * kRowBytes;  // of a warp's queries
  static_assert(kSlots % 16 == 0 && kSlots <= 128, "two bits for each eight slots in a word");

  // Elements from a warp tile's first query to one of its rows, and the row's coordinates.
  struct alignas(8) Row {
    long long q, out;
    unsigned field;
  };

  // One warp tile, for one head. The first query counts from the block's first.
  struct alignas(16) WarpTile {
    long long q, out;      // elements from the begin of the array to the first query
    unsigned first, last;  // query of the tile, and last real one counted from it, packed
    int keys;              // bytes from the box's first token to the corner of the tile's
    int head;              // none where no query of the tile is real
  };

  // Where the words begin, in the first block of slots, for what lies before a window's begin and
  // before its end on each axis: two halves of one word, registers are short.
  struct Bounds {
    unsigned words[kAxes];

    // The slots of a block that the window holds.
    __device__ __forceinline__ unsigned bits(const unsigned* below) const {
      unsigned held = 0xffffffffu;
#pragma unroll
      for (int axis = 0; axis < kAxes; ++axis) {
        held &= below[words[axis] >> 16] & ~below[words[axis] & 0xffffu];
      }
      return held;
    }
  };

  // Where a line of the box along the last axis begins: elements from the box's first token, its
  // place in shared memory, and its coordinates along the first two axes.
  struct LinePlace {
    long long k, v;
    int token;
    unsigned x, y;
  };
  static_assert(sizeof(LinePlace) == 32, "the host knows the size");

  struct Work {
    AxisTile own[kAxes];
    Line line[kAxes];
    int head, batch;  // of the keys
  };

  struct Fixed {
    Row rows[kRows];
    Work works[3];  // the current one, the next and the one after it
  };
  static constexpr int kFixedBytes = 1024;
  static_assert(sizeof(Fixed) <= kFixedBytes, "the host knows the size");

  const WindowParams& window;
  const AttentionParams& params;
  unsigned char* const memory;
  const int warp, warps, lane;

  __device__ WindowTileSm80(const WindowParams& window, unsigned char* memory)
      : window(window),
        params(window.attention),
        memory(memory),
        warp(threadIdx.x / 32),
        warps(blockDim.x / 32),
        lane(threadIdx.x % 32) {}

  // | fixed | tokens | queries, two tiles of each warp | offsets | fields | below | lines |
  // tiles of two works | seen of two works |
  __device__ __forceinline__ unsigned char* tokens() const { return memory + kFixedBytes; }
  __device__ __forceinline__ unsigned char* queries(int stage) const {
    return tokens() + window.box_tokens * kTokenBytes + (2 * warp + stage) * kStageBytes;
  }
  __device__ __forceinline__ int* offsets() const {
    return reinterpret_cast<int*>(tokens() + window.box_tokens * kTokenBytes +
                                  2 * warps * kStageBytes);
  }
  __device__ __forceinline__ unsigned* fields() const {
    return reinterpret_cast<unsigned*>(offsets() + window.blocks_of_slots * kSlots);
  }
  __device__ __forceinline__ unsigned* below() const {
    return fields() + window.blocks_of_slots * kSlots;
  }

  __device__ __forceinline__ LinePlace* lines() const {
    const int coordinates =
        window.window[0].slots + window.window[1].slots + window.window[2].slots + kAxes;
    return reinterpret_cast<LinePlace*>(below() + coordinates * window.blocks_of_slots * 4);
  }
  __device__ __forceinline__ int line_count() const {
    return window.window[0].box * window.window[1].box;
  }
  __device__ __forceinline__ WarpTile* tiles(int side) const {
    return reinterpret_cast<WarpTile*>(lines() + line_count()) + side * warp_tiles();
  }
  // The words of `Bounds` for each position of the block's tile, along one axis after the other.
  __device__ __forceinline__ unsigned* seen(int side) const {
    return reinterpret_cast<unsigned*>(tiles(2)) + side * (extent(0) + extent(1) + extent(2));
  }
  __device__ __forceinline__ Fixed& fixed() const { return *reinterpret_cast<Fixed*>(memory); }
  __device__ __forceinline__ int extent(int axis) const {
    return window.window[axis].warp_tiles << window.window[axis].warp_extent_log2;
  }
  __device__ __forceinline__ int warp_tiles() const {
    return window.window[0].warp_tiles * window.window[1].warp_tiles * window.window[2].warp_tiles *
           params.head_group;
  }

  // Which tile of the grid a work is.
  __device__ __forceinline__ void place(unsigned work, int turn) const {
    const int i = threadIdx.x;
    if (i > kAxes || work >= window.works) return;
    Work& placed = fixed().works[turn];
    unsigned rest = work / window.kv_heads;
    if (i == kAxes) placed.head = work - rest * window.kv_heads;
    for (int j = kAxes - 1; j > i; --j) rest /= params.tile[j].row_tiles;
    if (i == kAxes) {
      for (int j = kAxes - 1; j >= 0; --j) rest /= params.tile[j].row_tiles;
      placed.batch = rest;
      return;
    }
    const AxisParams& axis = params.axis[i];
    const AxisTiling tiling{axis.length,   axis.kernel_size,    axis.stride,
                            axis.dilation, axis.is_causal != 0, extent(i)};
    placed.own[i] = tiling.tile(static_cast<int>(rest % params.tile[i].row_tiles), Side::kQuery);
    placed.line[i] = tiling.line(placed.own[i].group);
  }

  __device__ __forceinline__ long long offset_of(const Array& array, const Work& work,
                                                 const Coordinate& at) const {
    const int x = work.own[0].group + at.x * params.axis[0].dilation;
    const int y = work.own[1].group + at.y * params.axis[1].dilation;
    const int z = work.own[2].group + at.z * params.axis[2].dilation;
    return work.batch * array.batch + x * array.axis[0] + y * array.axis[1] + z * array.axis[2];
  }

  // Begins to copy the box, a token to as many threads as a key has chunks. What lies past the end
  // of a line is zero.
  __device__ __forceinline__ void copy_box(const Work& work) const {
    const int chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
    const int together = blockDim.x / kChunks;
    const int extent = window.window[2].box, count = line_count();
    const bool has_key = chunk * 8 < params.head_dim, has_value = chunk * 8 < params.value_dim;
    const Coordinate corner{work.own[0].box_begin, work.own[1].box_begin, work.own[2].box_begin};
    const Coordinate left{work.line[0].length - corner.x, work.line[1].length - corner.y,
                          work.line[2].length - corner.z};
    const T* keys = static_cast<const T*>(params.k.data) + work.head * params.k.head +
                    offset_of(params.k, work, corner) + (has_key ? chunk * 8 : 0);
    const T* values = static_cast<const T*>(params.v.data) + work.head * params.v.head +
                      offset_of(params.v, work, corner) + (has_value ? chunk * 8 : 0);
    const long long key_step = params.axis[2].dilation * params.k.axis[2];
    const long long value_step = params.axis[2].dilation * params.v.axis[2];
    const unsigned target = ptx::shared_address(tokens()) + chunk * 16;
    const int lines_on = together / extent, z_on = together - lines_on * extent;
    int line = first / extent, z = first - line * extent;
#pragma unroll 2
    while (line < count) {
      const LinePlace at = lines()[line];
      const bool is_there =
          z < left.z && static_cast<int>(at.y) < left.y && static_cast<int>(at.x) < left.x;
      const unsigned to = target + (at.token + z) * kTokenBytes;
      ptx::copy_async_16(to, is_there ? keys + at.k + z * key_step : keys,
                         is_there && has_key ? 16 : 0);
      ptx::copy_async_16(to + kHeadDim * 2, is_there ? values + at.v + z * value_step : values,
                         is_there && has_value ? 16 : 0);
      z += z_on;
      line += lines_on;
      if (z >= extent) {
        z -= extent;
        ++line;
      }
    }
  }

  __device__ __forceinline__ void lay_lines() const {
    const WindowAxis(&axes)[kAxes] = window.window;
    for (int i = threadIdx.x; i < line_count(); i += blockDim.x) {
      const int x = i / axes[1].box, y = i - x * axes[1].box;
      const Coordinate at{x, y, 0};
      lines()[i] =
          LinePlace{step(params.k, at), step(params.v, at), x * axes[0].pitch + y * axes[1].pitch,
                    static_cast<unsigned>(x), static_cast<unsigned>(y)};
    }
  }

  __device__ __forceinline__ void lay_slots() const {
    const WindowAxis(&axes)[kAxes] = window.window;
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
      const int words = (window.window[axis].slots + 1) * window.blocks_of_slots * 4;
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
    const int log2_y = window.window[1].warp_extent_log2;
    const int log2_z = window.window[2].warp_extent_log2;
    const int row = threadIdx.x;
    const Coordinate at{row >> (log2_y + log2_z), row >> log2_z & ((1 << log2_y) - 1),
                        row & ((1 << log2_z) - 1)};
    fixed().rows[row] =
        Row{step(params.q, at), step(params.out, at), pack_fields(at.x, at.y, at.z)};
  }

  // What the queries of a work see, and its warp tiles.
  __device__ __forceinline__ void lay_tables(const Work& work, int side) const {
    const int of_x = extent(0), of_y = of_x + extent(1), positions = of_y + extent(2);
    for (int i = threadIdx.x; i < positions; i += blockDim.x) {
      const int axis = i < of_x ? 0 : i < of_y ? 1 : 2;
      seen(side)[i] = words_of(work, axis, i - (axis == 0 ? 0 : axis == 1 ? of_x : of_y));
    }
    // The last threads begin, while the first are at the positions.
    for (int i = blockDim.x - 1 - threadIdx.x; i < warp_tiles(); i += blockDim.x) {
      tiles(side)[i] = warp_tile(work, i);
    }
  }

  // Positions past the end of a line repeat its last one.
  static __device__ __forceinline__ Interval window_at(const Work& work, int axis, int position) {
    const AxisTile& own = work.own[axis];
    const Interval keys = window_of(work.line[axis], min_of(own.begin + position, own.end - 1));
    return {keys.begin - own.box_begin, keys.end - own.box_begin};
  }

  // Where the box of the warp tile that begins at a position begins in the block's. It is moved
  // back where it would pass the block's end.
  __device__ __forceinline__ int corner_of(const Work& work, int axis, int position) const {
    const WindowAxis& along = window.window[axis];
    return min_of(window_at(work, axis, position).begin, along.box - along.slots);
  }

  __device__ __forceinline__ unsigned words_of(const Work& work, int axis, int position) const {
    const WindowAxis& along = window.window[axis];
    const Interval keys = window_at(work, axis, position);
    const int log2 = along.warp_extent_log2;
    const int corner = corner_of(work, axis, position >> log2 << log2);
    const int entry = window.blocks_of_slots * 4;
    int words = 0;
    for (int i = 0; i < axis; ++i) words += (window.window[i].slots + 1) * entry;
    const unsigned begin = words + min_of(max_of(keys.begin - corner, 0), along.slots) * entry;
    const unsigned end = words + min_of(max_of(keys.end - corner, 0), along.slots) * entry;
    return begin | end << 16;
  }

  __device__ __forceinline__ WarpTile warp_tile(const Work& work, int index) const {
    const WindowAxis(&axes)[kAxes] = window.window;
    const int of_y = index / axes[2].warp_tiles, of_x = of_y / axes[1].warp_tiles;
    const int of_group = of_x / axes[0].warp_tiles;
    const Coordinate first{of_x - of_group * axes[0].warp_tiles << axes[0].warp_extent_log2,
                           of_y - of_x * axes[1].warp_tiles << axes[1].warp_extent_log2,
                           index - of_y * axes[2].warp_tiles << axes[2].warp_extent_log2};
    const Coordinate query{work.own[0].begin + first.x, work.own[1].begin + first.y,
                           work.own[2].begin + first.z};
    const Coordinate last{work.own[0].end - 1 - query.x, work.own[1].end - 1 - query.y,
                          work.own[2].end - 1 - query.z};
    const bool is_real = last.x >= 0 && last.y >= 0 && last.z >= 0;
    const int head = work.head * params.head_group + of_group;
    const int token = corner_of(work, 0, first.x) * axes[0].pitch +
                      corner_of(work, 1, first.y) * axes[1].pitch + corner_of(work, 2, first.z);
    WarpTile tile;
    tile.q = offset_of(params.q, work, query) + head * params.q.head;
    tile.out = offset_of(params.out, work, query) + head * params.out.head;
    tile.first = pack_fields(first.x, first.y, first.z);
    tile.last = is_real ? last_fields(last.x, last.y, last.z) : 0;
    tile.keys = token * kTokenBytes;
    tile.head = is_real ? head : -1;
    return tile;
  }

  // Of the query at a packed coordinate of the block's tile.
  __device__ __forceinline__ Bounds bounds_at(int side, unsigned packed) const {
    const Coordinate at = unpack_fields(packed);
    const unsigned* words = seen(side);
    return Bounds{{words[at.x], words[extent(0) + at.y], words[extent(0) + extent(1) + at.z]}};
  }

  static __device__ __forceinline__ bool is_real(const WarpTile& tile, const Row& row) {
    return ((tile.last - row.field) & kGuards) == kGuards;
  }

  __device__ __forceinline__ long long step(const Array& array, const Coordinate& at) const {
    return at.x * params.axis[0].dilation * array.axis[0] +
           at.y * params.axis[1].dilation * array.axis[1] +
           at.z * params.axis[2].dilation * array.axis[2];
  }

  // Rows of 16-byte chunks between an array and a warp's own shared memory.
  __device__ __forceinline__ void copy_queries(unsigned char* target, const WarpTile& tile) const {
    const T* source = static_cast<const T*>(params.q.data) + tile.q;
#pragma unroll
    for (int i = lane; i < kRows * kChunks; i += 32) {
      const int chunk = i % kChunks;
      const Row from = fixed().rows[i / kChunks];
      const bool is_there = chunk * 8 < params.head_dim && is_real(tile, from);
      ptx::copy_async_16(ptx::shared_address(target) + i / kChunks * kRowBytes + chunk * 16,
                         is_there ? source + from.q + chunk * 8 : source, is_there ? 16 : 0);
    }
  }

  __device__ __forceinline__ void write_outputs(const unsigned char* source,
                                                const WarpTile& tile) const {
    T* target = static_cast<T*>(params.out.data) + tile.out;
#pragma unroll
    for (int i = lane; i < kRows * kChunks; i += 32) {
      const int chunk = i % kChunks;
      const Row to = fixed().rows[i / kChunks];
      if (chunk * 8 < params.value_dim && is_real(tile, to)) {
        *reinterpret_cast<uint4*>(target + to.out + chunk * 8) =
            *reinterpret_cast<const uint4*>(source + i / kChunks * kRowBytes + chunk * 16);
      }
    }
  }
};

}  // namespace cupyna
