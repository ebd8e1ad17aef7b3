// The way of a warp through the warp tiles of its works on Hopper: which tile comes next, what its
// rows see, and where the lines of its box lie in the ring.
#pragma once

#include "../../common/numeric.cuh"
#include "../../common/warp.cuh"
#include "../../ptx/arithmetic.cuh"
#include "line_ends.cuh"
#include "ring_sm90.cuh"

namespace cupyna {

// A bit for each line of a warp's box: boxes of short lines have many.
template <int kLine>
struct LineSet {
  using Bits = unsigned long long;
};
template <>
struct LineSet<16> {
  using Bits = unsigned;
};

template <int kHeadDim, int kLine, int kConsumers>
struct WindowTurnsSm90 : WindowRingSm90<kHeadDim, kConsumers> {
  using Ring = WindowRingSm90<kHeadDim, kConsumers>;
  using Ring::lane, Ring::params, Ring::warp;
  using Reader = RingReader<typename Ring::Fixed>;
  using Bits = typename LineSet<kLine>::Bits;
  static_assert(kLine == 8 || kLine == 16, "a product takes sixteen keys");

  // Where the first query of a warp's tile is.
  struct Spot {
    Coordinate at;
    int head;
  };

  // What this thread's two rows see: lines of the box, and keys of a line.
  struct Seen {
    Bits lines[2];
    LineEnds<kLine / 8> ends;
  };

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

  using Ring::Ring;

  __device__ __forceinline__ void count(RingWork& work) const {
    int counts[kAxes];
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      const int log2 = Ring::log2_of(axis);
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
    return work.own[0].begin + (step << Ring::log2_of(0));
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

  // Finds what the rows of a tile see, and lays down where the lines of its box begin.
  __device__ __forceinline__ Seen begin_turn(RingWork& work, const Turn& turn,
                                             Reader& reader) const {
    const Spot spot = spot_of(work, turn);
    Seen seen;
    // A lane for each position along each axis; positions past the end repeat the last one.
    const int of_x = 1 << Ring::log2_of(0), past_y = of_x + (1 << Ring::log2_of(1));
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
    const int lines = (interval(of_x - 1).end - first_slice) * y.lines;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Coordinate row = Ring::row_at(lane / 4 + 8 * half);
      const Interval along_y = interval(of_x + row.y), along_z = interval(past_y + row.z);
#pragma unroll
      for (int n = 0; n < kLine / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          seen.ends.of_rows[half][n][i] =
              along_z.contains(corner_z + 8 * n + lane % 4 * 2 + i) ? 0.f : -infinity();
        }
      }
      const unsigned of_slice = along_y.bits_from(corner_y);
      seen.lines[half] = lines_of(interval(row.x), first_slice, of_slice, y.lines);
    }
    const Bits full = of_all_lanes(seen.lines[0] & seen.lines[1]);
    const int stages = first_slice >> params.slices_log2;
    reader.release_to(stages);
    const int place = ((reader.released_place - stages) << params.slices_log2) + first_slice;
    lay_lines(place, corner_y * z.box + corner_z, lines);
    if (lane == 0) {
      work.step = turn.step;
      work.in_step = turn.in_step;
      work.full = full;
      work.begin = first_slice;
      work.lines = lines;
      work.keep = first_stage(work, turn.after(work, kConsumers).step);
    }
    __syncwarp();
    return seen;
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
};

}  // namespace cupyna
