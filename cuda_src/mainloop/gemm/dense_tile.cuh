// A tile whose weights wait between two kernels as fragments of tensor core products, with zeros
// outside of windows: nothing is selected or scattered.
//
// A block keeps its tile for many planes: a head of a batch entry each. What depends on geometry
// alone is laid down once: tokens of the rows, where rows of a slab are and slabs of the box, and
// which rows of a warp see a position. The slab after the one at hand is on its way, across planes,
// too.
#pragma once

#include "fragments.cuh"
#include "slab.cuh"
#include "tile.cuh"

namespace cupyna {

template <typename T>
struct GemmDenseTile : GemmTile<T> {
  using Base = GemmTile<T>;
  using Base::kWarps, Base::kWarpRows, Base::kRows, Base::kThreads, Base::kChunk, Base::kVector;
  using Base::params, Base::warp, Base::lane, Base::side;
  // Columns that are laid at a time, positions whose words are kept, and slabs.
  static constexpr int kColumns = 256;
  static constexpr int kPositions = 144;
  static constexpr int kSlabs = 20;
  static constexpr unsigned kAllRows = (1u << kWarpRows) - 1;

  struct Token {
    int x, y, z;
    int is_real;
  };

  using Slab = GemmSlab;
  using Place = GemmPlace;
  using Share = GemmShare;

  struct Shared : Base::Shared {
    Window common[kWarps];  // what all rows of a warp see
    int heads[kWarps];      // that each warp is at
    alignas(16) Token tokens[kRows];
    Place places[kSlabs];  // of the first slabs
    unsigned short shares[kWarps][kSlabs];
    // Which rows of a warp see a position along an axis, for one axis after the other.
    unsigned short seen_along[kWarps][kPositions];
    // Of each column: which rows see it, and its row of the slab.
    alignas(16) unsigned short seen[kWarps][kColumns];
    alignas(16) unsigned short rows[kWarps][kColumns];
  };
  static_assert(sizeof(Shared) <= 7 * 1024, "plans count on so many bytes");

  // One walk of the box: of tiles of queries a head, of tiles of keys a query head of theirs.
  struct Pass {
    int batch, head, query_head;
  };

  Shared& shared;
  int origin = 0;           // which of the tables' columns is the slab's first, before them if < 0
  int laid = 0;             // columns of the tables
  unsigned dense_runs = 0;  // bits of 32 of them that all rows see

  __device__ GemmDenseTile(const GemmParams& params, Shared& shared, Side side)
      : Base(params, shared, side), shared(shared) {}

  __device__ __forceinline__ void place() {
    Base::place_block();
    const Coordinate origin = Base::origin_of_warp();
    Base::has_rows = origin.x < shared.own[0].end && origin.y < shared.own[1].end &&
                     origin.z < shared.own[2].end;
    if (lane < kAxes && Base::has_rows) place_warp(lane, along(origin, lane));
    if (threadIdx.x < kRows) {
      bool is_real;
      const Coordinate at = Base::position_of(threadIdx.x, is_real);
      shared.tokens[threadIdx.x] = Token{token(0, at.x), token(1, at.y), token(2, at.z), is_real};
    }
    __syncthreads();
    if (Base::has_rows) lay_positions();
    lay_slabs();
  }

  // Elements from an array's first to the first channel of a row of the tile.
  __device__ __forceinline__ long long offset_of_row(const Array& array, int row, const Pass& pass,
                                                     int of_head) const {
    const Token at = shared.tokens[row];
    return pass.batch * array.batch + of_head * array.head +
           offset_in_plane(array, Coordinate{at.x, at.y, at.z});
  }

  // Groups of 16 columns of a chunk that begins with column `first`.
  static __device__ __forceinline__ int groups_of(int columns, int first) {
    return min_of(columns - first + 15, kChunk) / 16;
  }

  // The fragments of a pass.
  __device__ __forceinline__ char* fragments_of(const Array& array, const Pass& pass) const {
    return static_cast<char*>(array.data) + warp_of(pass) * params.groups * kBlockBytes<T>;
  }
  __device__ __forceinline__ Wide<T>* maxima_of(const Pass& pass) const {
    return static_cast<Wide<T>*>(params.maxima) + warp_of(pass) * (params.chunks + 1) * kWarpRows;
  }

  // Where rows are, in elements: those of slabs, counted from the first slab, and the tile's own.
  __device__ __forceinline__ void lay_offsets(long long* offsets, const Array& array) const {
    const Coordinate corner = box_corner();
    const Part part(Base::slab_at(corner));
    for (int row = threadIdx.x; row < part.columns(); row += kThreads) {
      const Coordinate in = part.at(row);
      offsets[row] =
          offset_in_plane(array, Coordinate{token(0, corner.x + in.x), token(1, corner.y + in.y),
                                            token(2, corner.z + in.z)});
    }
  }
  __device__ __forceinline__ void lay_own_offsets(long long* offsets, const Array& array) const {
    if (threadIdx.x >= kRows) return;
    const Token at = shared.tokens[threadIdx.x];
    offsets[threadIdx.x] = offset_in_plane(array, Coordinate{at.x, at.y, at.z});
  }

  // Copies rows of channels that begin at `data` and an offset each. Channels that are not there
  // become zero.
  __device__ __forceinline__ void copy_rows(char* target, int pitch, const T* data,
                                            const long long* offsets, int rows, int channels,
                                            bool is_vector, long long stride) const {
    const int bytes = Base::padded_bytes(channels);
    if (is_vector) {
      const int lanes_log2 = min_of(32 - __clz(bytes / 16 - 1), 5);
      const int step = kThreads >> lanes_log2;
#pragma unroll 1
      for (int at = (lane & ((1 << lanes_log2) - 1)) * 16; at < bytes; at += 512) {
        const bool is_there = at < channels * int(sizeof(T));
        const int size = is_there ? 16 : 0;
        const char* const from = reinterpret_cast<const char*>(data) + (is_there ? at : 0);
        const int first = threadIdx.x >> lanes_log2;
        unsigned to = ptx::shared_address(target) + first * pitch + at;
#pragma unroll 4
        for (int row = first; row < rows; row += step, to += step * pitch) {
          ptx::copy_async_16(to, from + offsets[row] * int(sizeof(T)), size);
        }
      }
      return;
    }
#pragma unroll 1
    for (int row = warp; row < rows; row += kWarps) {
      const T* from = data + offsets[row];
#pragma unroll 1
      for (int c = lane; c < bytes / int(sizeof(T)); c += 32) {
        reinterpret_cast<T*>(target + row * pitch)[c] =
            c < channels ? from[c * stride] : narrow<T>(Wide<T>(0));
      }
    }
  }

  // The tile's own rows of an array.
  __device__ __forceinline__ void copy_tile(char* target, const Array& array,
                                            const long long* offsets, const Pass& pass, int of_head,
                                            int channels, bool is_vector) const {
    const T* data =
        static_cast<const T*>(array.data) + pass.batch * array.batch + of_head * array.head;
    copy_rows(target, Base::pitch_of(channels), data, offsets, kRows, channels, is_vector,
              array.channel);
  }

  __device__ __forceinline__ Place place_of(const Slab& slab) const {
    return slab.index < kSlabs ? shared.places[slab.index] : place_at(slab.at);
  }

  // From an array's first element to a slab's first, of any type.
  __device__ __forceinline__ long long slab_offset(const Array& array, const Pass& pass,
                                                   int of_head, const Place& slab) const {
    return pass.batch * array.batch + of_head * array.head +
           offset_in_plane(array, Coordinate{slab.x, slab.y, slab.z});
  }

  // A slab's rows of an array, `channels` channels from `first` on.
  __device__ __forceinline__ void copy_slab(char* target, const Place& slab, const Array& array,
                                            const long long* offsets, const Pass& pass, int of_head,
                                            int first, int channels, int pitch,
                                            bool is_vector) const {
    const T* data = static_cast<const T*>(array.data) + slab_offset(array, pass, of_head, slab) +
                    first * array.channel;
    copy_rows(target, pitch, data, offsets, slab.rows, channels, is_vector, array.channel);
  }

  // Columns of this warp in a slab; none of a warp without rows.
  __device__ __forceinline__ Share share_of(const Slab& slab) const {
    if (slab.index < kSlabs) return Share::of(shared.shares[warp][slab.index]);
    return Share{columns_at(slab.at), Share::kIsNotKept};
  }

  // Walks the boxes of all planes of this block, `heads` heads and `group` passes each. `product`
  // copies its own rows and slabs ahead, takes a warp's part of a slab that is there, and ends a
  // plane after its last pass.
  template <typename Product>
  __device__ __forceinline__ void walk(Product& product, int heads, int group) {
    Pass next{static_cast<int>(blockIdx.y) / heads, static_cast<int>(blockIdx.y) % heads, 0};
    next.query_head = next.head * group;
    Slab next_slab{box_corner(), 0};
    ask(product, next, next_slab, 0, 0, false);
    int stage = 0, own_stage = 0;
    while (next.batch < params.batch) {
      const Pass pass = next;
      const bool is_first = pass.query_head == pass.head * group;
      const bool is_last = pass.query_head + 1 == (pass.head + 1) * group;
      if (is_last) {
        for (next.head += gridDim.y; next.head >= heads; next.head -= heads) ++next.batch;
        next.query_head = next.head * group;
      } else {
        ++next.query_head;
      }
      product.begin(pass, is_first, own_stage);
      const int next_own = params.stages > 1 ? own_stage ^ 1 : 0;
      bool is_inside = true;
      while (is_inside) {
        ptx::copy_async_wait<0>();
        __syncthreads();  // this slab has arrived, and all warps are done with the other stage
        const Slab here = next_slab;
        is_inside = Base::advance(next_slab.at);
        next_slab.index = is_inside ? next_slab.index + 1 : 0;
        Pass asked = next;
        if (is_inside) asked = pass;
        const bool has_next = asked.batch < params.batch;
        const int next_stage = params.stages > 1 ? stage ^ 1 : 0;
        const bool ends = is_last && !is_inside;
        // The only stage is free when all warps are done with it.
        if (params.stages > 1 && has_next)
          ask(product, asked, next_slab, next_stage, next_own, is_inside);
        take(product, pass, here, stage, ends);
        if (params.stages == 1) {
          __syncthreads();
          if (has_next) ask(product, asked, next_slab, 0, 0, is_inside);
        }
        stage = next_stage;
      }
      own_stage = next_own;
    }
  }

  // Where the tables have the chunk that begins with column `first`. What they keep of all slabs
  // is laid in their order, in the first plane.
  template <bool kHasMask>
  __device__ __forceinline__ int lay_columns(const Coordinate& slab, int first) {
    if (origin + first >= laid) {
      if (origin + first + kChunk > kColumns) origin = -first;
      lay<kHasMask>(slab, first);
    }
    return origin + first;
  }

  // Whether all rows see `kCount` columns of the tables from `at` on.
  template <int kCount>
  __device__ __forceinline__ bool is_dense(int at) const {
    constexpr unsigned kRuns = (1u << (kCount + 31) / 32) - 1;
    return (dense_runs >> at / 32 & kRuns) == kRuns;
  }

  // A lane's tests of the columns 2 (l % 4) and the next: bits 0 and 16 for row l / 4, bits 8 and
  // 24 for row l / 4 + 8.
  __device__ __forceinline__ unsigned seen_by_lane(int column) const {
    return *reinterpret_cast<const unsigned*>(&shared.seen[warp][column + lane % 4 * 2]) >>
           lane / 4;
  }

 private:
  static __device__ __forceinline__ int along(const Coordinate& at, int axis) {
    return axis == 0 ? at.x : axis == 1 ? at.y : at.z;
  }
  static __device__ __forceinline__ Interval& along(Window& window, int axis) {
    return axis == 0 ? window.x : axis == 1 ? window.y : window.z;
  }

  __device__ __forceinline__ int token(int axis, int position) const {
    return shared.own[axis].group + position * params.axis[axis].dilation;
  }

  __device__ __forceinline__ Coordinate box_corner() const {
    return Coordinate{shared.own[0].box_begin, shared.own[1].box_begin, shared.own[2].box_begin};
  }

  __device__ __forceinline__ long long warp_of(const Pass& pass) const {
    const long long tiles =
        1ll * params.tile[0].tiles * params.tile[1].tiles * params.tile[2].tiles;
    return ((1ll * pass.batch * params.heads + pass.query_head) * tiles + shared.tile) * kWarps +
           warp;
  }

  template <typename Product>
  __device__ __forceinline__ void ask(Product& product, const Pass& pass, const Slab& slab,
                                      int stage, int own_stage, bool is_inside) const {
    if (!is_inside) product.copy_own(pass, own_stage);
    product.copy(pass, slab, stage);
    ptx::copy_async_commit();
  }

  template <typename Product>
  __device__ __forceinline__ void take(Product& product, const Pass& pass, const Slab& slab,
                                       int stage, bool ends) {
    if (!Base::has_rows) return;
    const Share share = share_of(slab);
    const bool is_kept = share.kept_run != Share::kIsNotKept;
    origin = is_kept ? share.kept_run * 32 : 0;
    if (!is_kept) laid = 0;
    if (share.columns > 0) product.take(share.columns, slab.at, stage);
    if (ends) product.end(pass);
  }

  __device__ __forceinline__ int columns_at(const Coordinate& at) const {
    return Base::has_rows ? Part(Base::part_of(Base::slab_at(at))).columns() : 0;
  }

  __device__ __forceinline__ Place place_at(const Coordinate& at) const {
    const Coordinate corner = box_corner();
    return Place{(at.x - corner.x) * params.axis[0].dilation,
                 (at.y - corner.y) * params.axis[1].dilation,
                 (at.z - corner.z) * params.axis[2].dilation, Part(Base::slab_at(at)).columns()};
  }

  // A lane for each slab. Tables keep the columns of all slabs where they have room.
  __device__ __forceinline__ void lay_slabs() const {
    Slab slab{box_corner(), 0};
    bool is_there = lane < kSlabs;
    while (slab.index < lane && is_there) {
      is_there = Base::advance(slab.at);
      ++slab.index;
    }
    const int columns = is_there ? columns_at(slab.at) : 0;
    const int padded = (columns + kChunk - 1) / kChunk * kChunk;
    int past = padded;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, past, step);
      if (lane >= step) past += before;
    }
    if (warp == 0 && is_there) shared.places[lane] = place_at(slab.at);
    const bool are_more = lane == kSlabs - 1 && is_there && Base::advance(slab.at);
    const bool keeps = !__any_sync(0xffffffffu, are_more || past > kColumns);
    const Share share{columns, keeps ? (past - padded) / 32 : Share::kIsNotKept};
    if (lane < kSlabs) shared.shares[warp][lane] = share.word();
  }

  static __device__ __forceinline__ long long offset_in_plane(const Array& array,
                                                              const Coordinate& at) {
    return at.x * array.axis[0] + at.y * array.axis[1] + at.z * array.axis[2];
  }

  // What a warp sees along an axis. Bounds never decrease: the first and the last row tell.
  __device__ __forceinline__ void place_warp(int axis, int first) const {
    const int last = min_of(first + (1 << params.tile[axis].warp_log2), shared.own[axis].end) - 1;
    const Interval upper = Base::partners(axis, first), lower = Base::partners(axis, last);
    along(shared.any[warp], axis) = Interval{upper.begin, lower.end};
    along(shared.common[warp], axis) = Interval{lower.begin, upper.end};
  }

  // Bits of the warp's rows that see a position along an axis: an interval of its positions there,
  // at every place along the other axes.
  __device__ __forceinline__ unsigned seen_along(int axis, int at) const {
    const Line& line = shared.line[axis];
    const Interval seen_by = side == Side::kQuery ? queries_of(line, at) : window_of(line, at);
    int shift = 0;
    for (int i = kAxes - 1; i > axis; --i) shift += params.tile[i].warp_log2;
    const int begin = along(Base::origin_of_warp(), axis);
    const int extent = 1 << params.tile[axis].warp_log2;
    const int low = min_of(max_of(seen_by.begin - begin, 0), extent);
    const int high = min_of(max_of(seen_by.end - begin, low), extent);
    unsigned bits = (1u << (high << shift)) - (1u << (low << shift));
    for (int span = extent << shift; span < kWarpRows; span *= 2) bits |= bits << span;
    return bits;
  }

  __device__ __forceinline__ int positions() const {
    const Window& any = shared.any[warp];
    return any.x.end - any.x.begin + any.y.end - any.y.begin + any.z.end - any.z.begin;
  }

  __device__ __forceinline__ void lay_positions() const {
    if (positions() > kPositions) return;
    const Window& any = shared.any[warp];
    const int x = any.x.end - any.x.begin, y = any.y.end - any.y.begin;
#pragma unroll 1
    for (int i = lane; i < positions(); i += 32) {
      const int axis = i < x ? 0 : i < x + y ? 1 : 2;
      const int at = axis == 0   ? any.x.begin + i
                     : axis == 1 ? any.y.begin + i - x
                                 : any.z.begin + i - x - y;
      shared.seen_along[warp][i] = static_cast<unsigned short>(seen_along(axis, at));
    }
    __syncwarp();
  }

  __device__ __forceinline__ unsigned seen_of(const Coordinate& at) const {
    const Window& any = shared.any[warp];
    if (positions() > kPositions) {
      // Most positions of long windows are far from any edge.
      unsigned bits = kAllRows;
#pragma unroll 1
      for (int axis = 0; axis < kAxes; ++axis) {
        const int position = along(at, axis);
        if (!along(shared.common[warp], axis).contains(position))
          bits &= seen_along(axis, position);
      }
      return bits;
    }
    const int x = any.x.end - any.x.begin, y = any.y.end - any.y.begin;
    const unsigned short* words = shared.seen_along[warp];
    return words[at.x - any.x.begin] & words[x + at.y - any.y.begin] &
           words[x + y + at.z - any.z.begin];
  }

  template <bool kHasMask>
  __device__ __forceinline__ void lay(const Coordinate& slab_begin, int first) {
    const Window slab = Base::slab_at(slab_begin);
    const Part part(Base::part_of(slab));
    const int y = slab.y.end - slab.y.begin, z = slab.z.end - slab.z.begin;
    const int columns = part.columns();
    const int begin = origin + first;
    const int count = min_of((columns - first + kChunk - 1) / kChunk * kChunk, kColumns - begin);
    laid = begin + count;
    if (begin == 0) dense_runs = 0;
    __syncwarp();  // all lanes are done with the columns before
#pragma unroll 1
    for (int i = begin + lane; i < laid; i += 32) {
      const int column = i - origin;
      const bool is_there = column < columns;
      // Padding names a row that is there: its numbers are finite, and nothing sees them.
      const Coordinate in = part.at(is_there ? column : 0);
      const Coordinate at{part.origin.x + in.x, part.origin.y + in.y, part.origin.z + in.z};
      shared.rows[warp][i] = static_cast<unsigned short>(
          ((at.x - slab.x.begin) * y + at.y - slab.y.begin) * z + at.z - slab.z.begin);
      if constexpr (kHasMask) {
        const unsigned seen = is_there ? seen_of(at) : 0;
        shared.seen[warp][i] = static_cast<unsigned short>(seen);
        if (__all_sync(0xffffffffu, seen == kAllRows)) dense_runs |= 1u << i / 32;
      }
    }
    __syncwarp();
  }
};

}  // namespace cupyna
