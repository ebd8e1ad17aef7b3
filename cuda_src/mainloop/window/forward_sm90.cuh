// The fused forward for small windows on Hopper: a warp takes tiles of 16 queries with the keys of
// their own box, out of a ring that the copy engine fills.
//
// A box consists of lines of kLine keys along the last axis, and a step takes kSlots keys:
//
//   S = Q K^T onto zeros and minus infinities, which mask each line's ends for nothing
//   lines that some row does not see: minus infinity
//   weights = exp(S - shift), the shift raised only where a weight would pass 2^8
//   O += weights V
//
// The next tile's queries are on their way while a tile's rows leave.
#pragma once

#include "../../softmax/lazy.cuh"
#include "turns_sm90.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kLine, int kSlots, int kConsumers>
struct WindowForwardSm90 : WindowTurnsSm90<kHeadDim, kLine, kConsumers> {
  using Turns = WindowTurnsSm90<kHeadDim, kLine, kConsumers>;
  using Ring = typename Turns::Ring;
  using Turns::lane, Turns::params, Turns::warp;
  using typename Turns::Bits;
  using typename Turns::Reader;
  using typename Turns::Seen;
  using typename Turns::Spot;
  using typename Turns::Turn;
  using Scores = float[kSlots / 8][4];
  using Sums = float[kHeadDim / 8][4];
  using Queries = unsigned[kHeadDim / 16][4];
  using Chunks = uint4[2][kHeadDim / 32];

  static constexpr int kThreads = 32 * (kConsumers + 1);
  static constexpr int kLines = kSlots / kLine;  // of a step
  static constexpr Bits kAll = ~Bits(0) >> (8 * sizeof(Bits) - kLines);

  __device__ WindowForwardSm90(const WindowRingParams& params, unsigned char* memory)
      : Turns(params, memory) {}

  __device__ __forceinline__ void run() const {
    Ring::set_up();
    if (warp == kConsumers) {
      Ring::produce();
    } else {
      consume();
    }
  }

 private:
  __device__ __forceinline__ void consume() const {
    Reader reader{Ring::fixed(), params.stages, lane};
    int first = warp;
#pragma unroll 1
    for (unsigned index = blockIdx.x; index < params.works;) {
      RingWork& work = Ring::place(index);
      Turns::count(work);
      Turn turn = Turn{0, 0}.after(work, first);
      Chunks chunks;
      if (turn.step < work.steps) fetch_queries(chunks, work, Turns::spot_of(work, turn));
#pragma unroll 1
      while (turn.step < work.steps) {
        Queries queries;
        turn_queries(queries, chunks);
        Sums sums = {};
        LazyRow rows[2];
        attend(sums, rows, queries, work, turn, reader);
        const Turn done{work.step, work.in_step};
        turn = done.after(work, kConsumers);
        if (turn.step < work.steps) fetch_queries(chunks, work, Turns::spot_of(work, turn));
        store(work, Turns::spot_of(work, done), sums, rows);
      }
      first = turn.in_step + (turn.step - work.steps) * work.of_step;
      reader.end_work(work.stages(params.slices_log2));
      index = work.index + gridDim.x;
    }
  }

  __device__ __forceinline__ void attend(Sums& sums, LazyRow (&rows)[2], const Queries& queries,
                                         RingWork& work, const Turn& turn, Reader& reader) const {
    const Seen seen = Turns::begin_turn(work, turn, reader);
#pragma unroll 1
    for (int line = 0; line < work.lines; line += kLines) {
      const int last = min_of(line + kLines, work.lines) - 1;
      // The last slice of a step may go on in the next one.
      const int slice = work.begin + static_cast<int>(Ring::fixed().lines[last] >> 16);
      const int reached = slice >> params.slices_log2;
      reader.await_to(reached + 1);
      Scores scores;
      multiply_keys(scores, queries, seen, line);
      if ((Bits(work.full) >> line & kAll) != kAll) mask(scores, seen, line);
      raise_rows(rows, sums, scores, params.scale_log2);
      multiply_values(sums, rows, scores, line);
      reader.release_to(min_of(reached, work.keep));
    }
  }

  static __device__ __forceinline__ void mask(Scores& scores, const Seen& seen, int line) {
#pragma unroll
    for (int n = 0; n < kSlots / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const bool is_seen = (seen.lines[i / 2] >> line & Bits(1) << (8 * n / kLine)) != 0;
        scores[n][i] = is_seen ? scores[n][i] : -infinity();
      }
    }
  }

  __device__ __forceinline__ void multiply_keys(Scores& scores, const Queries& queries,
                                                const Seen& seen, int line) const {
    // Keys 0-7 and 8-15, each with the lower and the upper 8 channels.
    const unsigned* begins = Ring::fixed().begins[warp] + line + (kLine == 16 ? 0 : lane / 16);
    const unsigned along =
        Ring::keys() + (kLine == 16 ? lane / 16 * 8 + lane % 8 : lane % 8) * Ring::kRowBytes;
    unsigned places[kSlots / 16];
#pragma unroll
    for (int i = 0; i < kSlots / 16; ++i) {
      places[i] = Turns::place_of(begins[i * 16 / kLine], along, lane / 8 % 2);
    }
#pragma unroll
    for (int depth = 0; depth < kHeadDim / 16; ++depth) {
#pragma unroll
      for (int i = 0; i < kSlots / 16; ++i) {
        unsigned key[4];
        ptx::ldmatrix_x4(key, places[i] ^ depth * 32);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float (&into)[4] = scores[2 * i + n];
          if (depth == 0) {
            seen.ends.template multiply<T>(into, queries[depth], key[2 * n], key[2 * n + 1], n);
          } else {
            ptx::mma_m16n8k16<T>(into, queries[depth], key[2 * n], key[2 * n + 1]);
          }
        }
      }
    }
  }

  // Scores become weights just before the product in which they meet the values.
  __device__ __forceinline__ void multiply_values(Sums& sums, LazyRow (&rows)[2],
                                                  const Scores& scores, int line) const {
    // Both eights of keys with the lower 8 channels, then with the upper.
    const unsigned* begins = Ring::fixed().begins[warp] + line + (kLine == 16 ? 0 : lane / 8 % 2);
    const unsigned along = Ring::values() + (kLine == 16 ? lane % 16 : lane % 8) * Ring::kRowBytes;
#pragma unroll
    for (int i = 0; i < kSlots / 16; ++i) {
      const unsigned place = Turns::place_of(begins[i * 16 / kLine], along, lane / 16);
      unsigned weights[4];
      weigh<T>(weights, rows, scores, 2 * i, params.scale_log2);
#pragma unroll
      for (int pair = 0; pair < kHeadDim / 16; ++pair) {
        unsigned values[4];
        ptx::ldmatrix_x4_trans(values, place ^ pair * 32);
        ptx::mma_m16n8k16<T>(sums[2 * pair], weights, values[0], values[1]);
        ptx::mma_m16n8k16<T>(sums[2 * pair + 1], weights, values[2], values[3]);
      }
    }
  }

  __device__ __forceinline__ bool is_there(const RingWork& work, const Spot& spot,
                                           const Coordinate& row) const {
    const AxisTile(&own)[kAxes] = work.own;
    return spot.at.x + row.x < own[0].end && spot.at.y + row.y < own[1].end &&
           spot.at.z + row.z < own[2].end;
  }

  // Elements from the begin of an array to a tile's first row.
  __device__ __forceinline__ long long offset_of(const Array& array, const RingWork& work,
                                                 const Spot& spot) const {
    return work.batch * array.batch + spot.head * array.head +
           Ring::token(work, 0, spot.at.x) * array.axis[0] +
           Ring::token(work, 1, spot.at.y) * array.axis[1] +
           Ring::token(work, 2, spot.at.z) * array.axis[2];
  }

  // Each thread fetches whole chunks of eight channels; what it needs is a pair out of each. Rows
  // past the end are zeros.
  __device__ __forceinline__ void fetch_queries(Chunks& chunks, const RingWork& work,
                                                const Spot& spot) const {
    const T* first = static_cast<const T*>(params.q.data) + offset_of(params.q, work, spot);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + 8 * half;
      const bool exists = is_there(work, spot, Ring::row_at(row));
      const uint4* source =
          reinterpret_cast<const uint4*>(first + Ring::fixed().rows[row].query) + lane % 4;
#pragma unroll
      for (int four = 0; four < kHeadDim / 32; ++four) {
        chunks[half][four] = uint4{0, 0, 0, 0};
        if (exists && (4 * four + lane % 4) * 8 < params.head_dim) {
          chunks[half][four] = __ldg(source + 4 * four);
        }
      }
    }
  }

  __device__ __forceinline__ void turn_queries(Queries& queries, const Chunks& chunks) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int four = 0; four < kHeadDim / 32; ++four) {
        const uint4& read = chunks[half][four];
        unsigned words[4] = {read.x, read.y, read.z, read.w};
        transpose_over_quad(words);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          queries[2 * four + i / 2][i % 2 * 2 + half] =
              (words[i] & params.query_keep) ^ params.query_flip;
        }
      }
    }
  }

  __device__ __forceinline__ void store(const RingWork& work, const Spot& spot, const Sums& sums,
                                        const LazyRow (&rows)[2]) const {
    T* first = static_cast<T*>(params.out.data) + offset_of(params.out, work, spot);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Coordinate row = Ring::row_at(lane / 4 + 8 * half);
      const bool exists = is_there(work, spot, row);
      const float sum = sum_over_quad(rows[half].sum);
      const float factor = ptx::reciprocal_approx(sum);
      uint4* target =
          reinterpret_cast<uint4*>(first + Ring::fixed().rows[lane / 4 + 8 * half].out) + lane % 4;
#pragma unroll
      for (int four = 0; four < kHeadDim / 32; ++four) {
        unsigned words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float (&of_chunk)[4] = sums[4 * four + i];
          words[i] = pack<T>(of_chunk[2 * half] * factor, of_chunk[2 * half + 1] * factor);
        }
        transpose_over_quad(words);
        if (exists && (4 * four + lane % 4) * 8 < params.value_dim) {
          target[4 * four] = make_uint4(words[0], words[1], words[2], words[3]);
        }
      }
      if (params.lse.data != nullptr && exists && lane % 4 == 0) {
        float* lse = static_cast<float*>(params.lse.data) + offset_of(params.lse, work, spot);
        lse[Ring::step(params.lse, row)] = rows[half].lse(sum);
      }
    }
  }
};

}  // namespace cupyna
