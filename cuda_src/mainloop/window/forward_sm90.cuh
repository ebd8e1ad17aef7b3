// The fused forward for small windows on Hopper: a warp takes tiles of 16 queries, one or two that
// are neighbors along the first axis, with the keys of their own box out of the ring.
//
// A box consists of lines of kLine keys along the last axis, and a step takes kSlots keys:
//
//   S = Q K^T onto zeros and minus infinities, which mask each line's ends for nothing
//   lines that some row does not see: minus infinity
//   weights = exp(S - shift), the shift raised only where a weight would pass 2^8
//   O += weights V
//
// Two tiles of a warp share the fragments of the keys that both see.
#pragma once

#include "../../common/pack.cuh"
#include "../../common/warp.cuh"
#include "../../ptx/mma_sm80.cuh"
#include "../../softmax/lazy.cuh"
#include "ring_sm90.cuh"

namespace cupyna {

template <int kLine>
struct LineSet {
  using Bits = unsigned long long;  // boxes of short lines have many
};
template <>
struct LineSet<16> {
  using Bits = unsigned;
};

template <typename T, int kHeadDim, int kLine, int kTiles, int kSlots, int kConsumers>
struct WindowForwardSm90 : WindowRingSm90<kHeadDim, kConsumers> {
  using Ring = WindowRingSm90<kHeadDim, kConsumers>;
  using Ring::lane, Ring::params, Ring::warp;
  using typename Ring::Place;
  using Reader = RingReader<typename Ring::Fixed>;
  using Bits = typename LineSet<kLine>::Bits;
  using Scores = float[kTiles][kSlots / 8][4];
  using Sums = float[kTiles][kHeadDim / 8][4];
  using Queries = unsigned[kTiles][kHeadDim / 16][4];
  using Chunks = uint4[kTiles][2][kHeadDim / 32];

  static constexpr int kThreads = 32 * (kConsumers + 1);
  static constexpr int kDepths = kHeadDim / 16;
  static constexpr int kLines = kSlots / kLine;  // of a step
  static constexpr Bits kAll = ~Bits(0) >> (8 * sizeof(Bits) - kLines);
  static_assert(kLine == 8 || kLine == 16, "a product takes sixteen keys");

  // Where the first query of a warp's tiles is.
  struct Spot {
    Coordinate at;
    int head;
  };

  // The lines of a box that the rows of one or two tiles see.
  struct Item {
    int tile_lines[kTiles][2];  // that some row of a tile may see
    Bits seen[kTiles][2];       // by this thread's rows
    float ends[2][kLine / 8][2];
  };

  __device__ WindowForwardSm90(const WindowRingParams& params, unsigned char* memory)
      : Ring(params, memory) {}

  __device__ __forceinline__ void run() const {
    Ring::set_up();
    if (warp == kConsumers) {
      Ring::produce();
    } else {
      consume();
    }
  }

 private:
  // Which of a work's steps and warp tiles a warp is at.
  struct Turn {
    int step, in_step;

    __device__ __forceinline__ Turn after(const RingWork& work, int tiles) const {
      Turn next{step, in_step + tiles};
      while (next.in_step >= work.of_step) {
        next.in_step -= work.of_step;
        ++next.step;
      }
      return next;
    }
  };

  __device__ __forceinline__ void count(RingWork& work) const {
    int counts[kAxes];
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      const int log2 = axis == 0 ? Ring::log2_of(0) + kTiles - 1 : Ring::log2_of(axis);
      counts[axis] = (work.own[axis].end - work.own[axis].begin + (1 << log2) - 1) >> log2;
    }
    if (lane == 0) {
      work.along_y = counts[1];
      work.along_z = counts[2];
      work.steps = counts[0];
      work.of_step = counts[1] * counts[2] * params.head_group;
      work.per_y = 1.f / counts[1];
      work.per_z = 1.f / counts[2];
    }
    __syncwarp();
  }

  // Exact for what a step has of tiles.
  static __device__ __forceinline__ int quotient(int dividend, float reciprocal) {
    return static_cast<int>((dividend + 0.5f) * reciprocal);
  }

  __device__ __forceinline__ int first_x(const RingWork& work, int step) const {
    return work.own[0].begin + step * (kTiles << Ring::log2_of(0));
  }

  __device__ __forceinline__ Spot spot_of(const RingWork& work, const Turn& turn) const {
    const int of_y = quotient(turn.in_step, work.per_z), group = quotient(of_y, work.per_y);
    const int y = of_y - group * work.along_y, z = turn.in_step - of_y * work.along_z;
    return {{first_x(work, turn.step), work.own[1].begin + (y << Ring::log2_of(1)),
             work.own[2].begin + (z << Ring::log2_of(2))},
            work.head * params.head_group + group};
  }

  // The first stage that the box of a step's tiles needs.
  __device__ __forceinline__ int first_stage(const RingWork& work, int step) const {
    if (step >= work.steps) return work.stages(params.slices_log2);
    const int begin = work.line[0].window_begin(first_x(work, step)) - work.own[0].box_begin;
    return begin >> params.slices_log2;
  }

  __device__ __forceinline__ void consume() const {
    Reader reader{Ring::fixed(), params.stages, lane};
    int first = warp;
#pragma unroll 1
    for (unsigned index = blockIdx.x; index < params.works;) {
      RingWork& work = Ring::place(index);
      count(work);
      Turn turn = Turn{0, 0}.after(work, first);
      Chunks chunks;
      if (turn.step < work.steps) fetch_queries(chunks, work, spot_of(work, turn));
#pragma unroll 1
      while (turn.step < work.steps) {
        Queries queries;
        turn_queries(queries, chunks);
        Sums sums = {};
        LazyRow rows[kTiles][2];
        attend(sums, rows, queries, work, turn, reader);
        // The next queries come while these rows leave.
        const Turn done{work.step, work.in_step};
        turn = done.after(work, kConsumers);
        if (turn.step < work.steps) fetch_queries(chunks, work, spot_of(work, turn));
        const Spot spot = spot_of(work, done);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) store(work, spot, tile, sums[tile], rows[tile]);
      }
      first = turn.in_step + (turn.step - work.steps) * work.of_step;
      reader.end_work(work.stages(params.slices_log2));
      index = work.index + gridDim.x;
    }
  }

  // Finds what the rows of a tile see, and lays down where the lines of its box begin.
  __device__ __forceinline__ Item item_of(RingWork& work, const Turn& turn, Reader& reader) const {
    const Spot spot = spot_of(work, turn);
    Item item;
    // A lane for each position along each axis; positions past the end repeat the last one.
    const int of_x = kTiles << Ring::log2_of(0), past_y = of_x + (1 << Ring::log2_of(1));
    const int axis = lane < of_x ? 0 : lane < past_y ? 1 : 2;
    const int position = axis == 0   ? spot.at.x + lane
                         : axis == 1 ? spot.at.y + lane - of_x
                                     : spot.at.z + lane - past_y;
    const AxisTile& own = work.own[axis];
    const int at = min_of(position, own.end - 1);
    const int begins = work.line[axis].window_begin(at) - own.box_begin;
    const int ends = work.line[axis].window_end(at) - own.box_begin;
    const unsigned both = begins | ends << 16;
    const auto interval = [&](int of_lane) {
      const unsigned found = __shfl_sync(kAllLanes, both, of_lane);
      return Interval{static_cast<int>(found & 0xffffu), static_cast<int>(found >> 16)};
    };

    const WindowRingAxis& y = params.tile[1];
    const WindowRingAxis& z = params.tile[2];
    const int corner_y = min_of(interval(of_x).begin, y.box - y.lines);
    const int corner_z = min_of(interval(past_y).begin, z.box - kLine);
    const int first_slice = interval(0).begin;
    int end = 0;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int first = tile << Ring::log2_of(0), last = first + (1 << Ring::log2_of(0)) - 1;
      const int begin = interval(first).begin, past = interval(last).end;
      const bool is_real = spot.at.x + first < work.own[0].end;
      item.tile_lines[tile][0] = (begin - first_slice) * y.lines;
      item.tile_lines[tile][1] = is_real ? (past - first_slice) * y.lines : 0;
      end = max_of(end, past);
    }
    const int lines = (end - first_slice) * y.lines;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Coordinate row = Ring::row_at(lane / 4 + 8 * half);
      const Interval along_y = interval(of_x + row.y), along_z = interval(past_y + row.z);
#pragma unroll
      for (int n = 0; n < kLine / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          item.ends[half][n][i] =
              along_z.contains(corner_z + 8 * n + lane % 4 * 2 + i) ? 0.f : -infinity();
        }
      }
      const unsigned of_slice = along_y.bits_from(corner_y);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const Interval along_x = interval((tile << Ring::log2_of(0)) + row.x);
        item.seen[tile][half] = lines_of(along_x, first_slice, of_slice, y.lines);
      }
    }
    Bits full[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      full[tile] = of_all_lanes(item.seen[tile][0] & item.seen[tile][1]);
    }
    const int stages = first_slice >> params.slices_log2;
    reader.release_to(stages);
    const int place = ((reader.released_place - stages) << params.slices_log2) + first_slice;
    lay_lines(place, corner_y * z.box + corner_z, lines);
    if (lane == 0) {
      work.step = turn.step;
      work.in_step = turn.in_step;
      for (int tile = 0; tile < kTiles; ++tile) work.full[tile] = full[tile];
      work.begin = first_slice;
      work.lines = lines;
      work.keep = first_stage(work, turn.after(work, kConsumers).step);
    }
    __syncwarp();
    return item;
  }

  static __device__ __forceinline__ Bits lines_of(const Interval& along_x, int begin,
                                                  unsigned of_slice, int lines) {
    const int first = along_x.begin - begin, past = along_x.end - begin;
    if (lines == 1) return (Bits(1) << past) - (Bits(1) << first);
    Bits found = 0;
    for (int x = first; x < past; ++x) found |= Bits(of_slice) << x * lines;
    return found;
  }

  static __device__ __forceinline__ unsigned of_all_lanes(unsigned bits) {
    return __reduce_and_sync(kAllLanes, bits);
  }
  static __device__ __forceinline__ unsigned long long of_all_lanes(unsigned long long bits) {
    const unsigned low = of_all_lanes(static_cast<unsigned>(bits));
    const unsigned high = of_all_lanes(static_cast<unsigned>(bits >> 32));
    return static_cast<unsigned long long>(high) << 32 | low;
  }

  __device__ __forceinline__ void attend(Sums& sums, LazyRow (&rows)[kTiles][2],
                                         const Queries& queries, RingWork& work, const Turn& turn,
                                         Reader& reader) const {
    const Item item = item_of(work, turn, reader);
#pragma unroll 1
    for (int line = 0; line < work.lines; line += kLines) {
      const int last = min_of(line + kLines, work.lines) - 1;
      // The last slice of a step may go on in the next one.
      const int slice_of_last = work.begin + static_cast<int>(Ring::fixed().lines[last] >> 16);
      const int reached = slice_of_last >> params.slices_log2;
      reader.await_to(reached + 1);
      bool is_met[2];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        is_met[tile] = tile < kTiles && item.tile_lines[tile % kTiles][0] <= last &&
                       line < item.tile_lines[tile % kTiles][1];
      }
      if (kTiles == 1 || !is_met[1]) {
        take<1>(sums, rows, queries, item, line);
      } else if (!is_met[0]) {
        take<2>(sums, rows, queries, item, line);
      } else {
        take<3>(sums, rows, queries, item, line);
      }
      reader.release_to(min_of(reached, work.keep));
    }
  }

  // Lays down where the lines of a box begin; those that pad the last step repeat the last one.
  __device__ __forceinline__ void lay_lines(int slice, int corner, int lines) const {
    const int slices = params.stages << params.slices_log2;
    __syncwarp();  // the last box is done with
    for (int i = lane; i < params.line_entries; i += 32) {
      const unsigned entry = Ring::fixed().lines[min_of(i, lines - 1)];
      int at = slice + static_cast<int>(entry >> 16);
      if (at >= slices) at -= slices;
      const int token = at * Ring::slice_tokens() + corner + static_cast<int>(entry & 0xffffu);
      Ring::fixed().begins[warp][i] = token * Ring::kRowBytes;
    }
  }

  // The place of a lane's chunk: of a token's first two, a number of bytes from a line's begin.
  static __device__ __forceinline__ unsigned place_of(unsigned line, unsigned along, int chunk) {
    const unsigned token = line + along;
    return token ^ (token / 128 % (Ring::kRowBytes / 16) ^ chunk) * 16;
  }

  // One step, for the tiles of kMask.
  template <int kMask>
  __device__ __forceinline__ void take(Sums& sums, LazyRow (&rows)[kTiles][2],
                                       const Queries& queries, const Item& item, int line) const {
    const unsigned long long(&full)[2] = Ring::fixed().works[warp].full;
    Scores scores;
    multiply_keys<kMask>(scores, queries, item, line);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (!(kMask >> tile & 1)) continue;
      if ((Bits(full[tile]) >> line & kAll) == kAll) continue;
#pragma unroll
      for (int n = 0; n < kSlots / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool is_seen = item.seen[tile][i / 2] >> line & Bits(1) << (8 * n / kLine);
          scores[tile][n][i] = is_seen ? scores[tile][n][i] : -infinity();
        }
      }
    }
    raise<kMask>(sums, rows, scores);
    multiply_values<kMask>(sums, rows, scores, line);
  }

  template <int kMask>
  __device__ __forceinline__ void multiply_keys(Scores& scores, const Queries& queries,
                                                const Item& item, int line) const {
    // Keys 0-7 and 8-15, each with the lower and the upper 8 channels.
    const unsigned* begins = Ring::fixed().begins[warp] + line + (kLine == 16 ? 0 : lane / 16);
    const unsigned along =
        Ring::keys() + (kLine == 16 ? lane / 16 * 8 + lane % 8 : lane % 8) * Ring::kRowBytes;
    unsigned places[kSlots / 16];
#pragma unroll
    for (int i = 0; i < kSlots / 16; ++i) {
      places[i] = place_of(begins[i * 16 / kLine], along, lane / 8 % 2);
    }
#pragma unroll
    for (int depth = 0; depth < kDepths; ++depth) {
#pragma unroll
      for (int i = 0; i < kSlots / 16; ++i) {
        unsigned key[4];
        ptx::ldmatrix_x4(key, places[i] ^ depth * 32);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          if (!(kMask >> tile & 1)) continue;
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            float(&into)[4] = scores[tile][2 * i + n];
            if (depth == 0) {
              const int of_line = n % (kLine / 8);
              const float onto[4] = {item.ends[0][of_line][0], item.ends[0][of_line][1],
                                     item.ends[1][of_line][0], item.ends[1][of_line][1]};
              ptx::mma_m16n8k16_onto<T>(into, onto, queries[tile][depth], key[2 * n],
                                        key[2 * n + 1]);
            } else {
              ptx::mma_m16n8k16<T>(into, queries[tile][depth], key[2 * n], key[2 * n + 1]);
            }
          }
        }
      }
    }
  }

  template <int kMask>
  __device__ __forceinline__ void raise(Sums& sums, LazyRow (&rows)[kTiles][2],
                                        const Scores& scores) const {
    float largest[kTiles][2];
    bool is_passed = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (!(kMask >> tile & 1)) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float most = -infinity();
#pragma unroll
        for (int n = 0; n < kSlots / 8; ++n) {
          most = fmaxf(most, fmaxf(scores[tile][n][2 * half], scores[tile][n][2 * half + 1]));
        }
        largest[tile][half] = most;
        is_passed |= rows[tile][half].is_passed(most, params.scale_log2);
      }
    }
    if (!__any_sync(kAllLanes, is_passed)) return;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (!(kMask >> tile & 1)) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float factor = rows[tile][half].raise(largest[tile][half], params.scale_log2);
#pragma unroll
        for (int n = 0; n < kHeadDim / 8; ++n) {
          sums[tile][n][2 * half] *= factor;
          sums[tile][n][2 * half + 1] *= factor;
        }
      }
    }
  }

  // Scores become weights just before the product in which they meet the values.
  template <int kMask>
  __device__ __forceinline__ void multiply_values(Sums& sums, LazyRow (&rows)[kTiles][2],
                                                  Scores& scores, int line) const {
    // Both eights of keys with the lower 8 channels, then with the upper.
    const unsigned* begins = Ring::fixed().begins[warp] + line + (kLine == 16 ? 0 : lane / 8 % 2);
    const unsigned along =
        Ring::values() + (kLine == 16 ? lane % 16 : lane % 8) * Ring::kRowBytes;
#pragma unroll
    for (int i = 0; i < kSlots / 16; ++i) {
      const unsigned place = place_of(begins[i * 16 / kLine], along, lane / 16);
      unsigned weights[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (!(kMask >> tile & 1)) continue;
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const float(&four)[4] = scores[tile][2 * i + part / 2];
          LazyRow& row = rows[tile][part % 2];
          const float left =
              ptx::exp2_approx(four[part % 2 * 2] * params.scale_log2 - row.shift);
          const float right =
              ptx::exp2_approx(four[part % 2 * 2 + 1] * params.scale_log2 - row.shift);
          row.sum += left + right;
          weights[tile][part] = pack<T>(left, right);
        }
      }
#pragma unroll
      for (int pair = 0; pair < kHeadDim / 16; ++pair) {
        unsigned values[4];
        ptx::ldmatrix_x4_trans(values, place ^ pair * 32);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          if (!(kMask >> tile & 1)) continue;
          ptx::mma_m16n8k16<T>(sums[tile][2 * pair], weights[tile], values[0], values[1]);
          ptx::mma_m16n8k16<T>(sums[tile][2 * pair + 1], weights[tile], values[2], values[3]);
        }
      }
    }
  }

  __device__ __forceinline__ bool is_there(const RingWork& work, const Spot& spot, int tile,
                                           const Coordinate& row) const {
    const AxisTile(&own)[kAxes] = work.own;
    return spot.at.x + (tile << Ring::log2_of(0)) + row.x < own[0].end &&
           spot.at.y + row.y < own[1].end && spot.at.z + row.z < own[2].end;
  }

  // Elements from the begin of an array to a tile's first row.
  __device__ __forceinline__ long long offset_of(const Array& array, const RingWork& work,
                                                 const Spot& spot, int tile) const {
    return work.batch * array.batch + spot.head * array.head +
           Ring::token(work, 0, spot.at.x + (tile << Ring::log2_of(0))) * array.axis[0] +
           Ring::token(work, 1, spot.at.y) * array.axis[1] +
           Ring::token(work, 2, spot.at.z) * array.axis[2];
  }

  // Each thread fetches whole chunks of eight channels; what it needs is a pair out of each. Rows
  // past the end are zeros.
  __device__ __forceinline__ void fetch_queries(Chunks& chunks, const RingWork& work,
                                                const Spot& spot) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const T* first = static_cast<const T*>(params.q.data) + offset_of(params.q, work, spot, tile);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = lane / 4 + 8 * half;
        const bool exists = is_there(work, spot, tile, Ring::row_at(row));
        const uint4* source =
            reinterpret_cast<const uint4*>(first + Ring::fixed().rows[row].query) + lane % 4;
#pragma unroll
        for (int four = 0; four < kHeadDim / 32; ++four) {
          uint4& into = chunks[tile][half][four];
          into = uint4{0, 0, 0, 0};
          if (exists && (4 * four + lane % 4) * 8 < params.head_dim) into = __ldg(source + 4 * four);
        }
      }
    }
  }

  __device__ __forceinline__ void turn_queries(Queries& queries, const Chunks& chunks) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int four = 0; four < kHeadDim / 32; ++four) {
          const uint4& read = chunks[tile][half][four];
          unsigned words[4] = {read.x, read.y, read.z, read.w};
          transpose_over_quad(words);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            queries[tile][2 * four + i / 2][i % 2 * 2 + half] =
                (words[i] & params.query_keep) ^ params.query_flip;
          }
        }
      }
    }
  }

  __device__ __forceinline__ void store(const RingWork& work, const Spot& spot, int tile,
                                        const float (&sums)[kHeadDim / 8][4],
                                        const LazyRow (&rows)[2]) const {
    T* first = static_cast<T*>(params.out.data) + offset_of(params.out, work, spot, tile);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Coordinate row = Ring::row_at(lane / 4 + 8 * half);
      const bool exists = is_there(work, spot, tile, row);
      const float sum = sum_over_quad(rows[half].sum);
      const float factor = ptx::reciprocal_approx(sum);
      uint4* target =
          reinterpret_cast<uint4*>(first + Ring::fixed().rows[lane / 4 + 8 * half].out) + lane % 4;
#pragma unroll
      for (int four = 0; four < kHeadDim / 32; ++four) {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float(&of_chunk)[4] = sums[4 * four + i];
          words[i] = pack<T>(of_chunk[2 * half] * factor, of_chunk[2 * half + 1] * factor);
        }
        transpose_over_quad(words);
        if (exists && (4 * four + lane % 4) * 8 < params.value_dim) {
          target[4 * four] = make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
      if (params.lse.data != nullptr && exists && lane % 4 == 0) {
        static_cast<float*>(
            params.lse.data)[offset_of(params.lse, work, spot, tile) + Ring::step(params.lse, row)] =
            (rows[half].shift + ptx::log2_approx(sum)) * kLn2;
      }
    }
  }
};

}  // namespace cupyna
