// Products of the rows of a run with columns, a few columns at a time, on CUDA cores.
//
// A group of lanes shares each row of channels, eight to a lane. Every lane multiplies its share of
// these columns with those of its rows; the partial sums of all these pairs are added up together
// and dealt out, so that each lane has the sums of a few pairs of one row. What it makes of them,
// weights, goes back to all lanes of the group.
#pragma once

#include "../../common/pack.cuh"
#include "../../ptx/arithmetic.cuh"
#include "run.cuh"

namespace cupyna {

// Channels of one lane.
constexpr int kDirectChannels = 8;

// What a group of lanes keeps in shared memory: its run, and elements from the first one of each
// array to the run's, which lies at the same place in every head and batch entry.
struct DirectGroup {
  static constexpr int kMostArrays = 8;
  DirectRun run;
  long long offsets[kMostArrays];
};

// A lane's share of rows of some channels. Piece i of lane l is the vector i * lanes + l, so that
// one load of a group is contiguous.
template <typename T, int kLanes>
struct DirectLane {
  static constexpr int kVector = 16 / sizeof(T);
  static constexpr int kPieces = kDirectChannels / kVector;
  static constexpr int kStep = kLanes * kVector;

  int first;  // channel
  int count;  // of the row's channels

  __device__ DirectLane(int lane, int channels) : first(lane * kVector), count(channels) {}

  __device__ __forceinline__ bool has(int piece) const { return first + piece * kStep < count; }
};

template <typename T, int kLanes, Side kSide, int kRows, int kColumns>
struct DirectPairs {
  using Lane = DirectLane<T, kLanes>;

  static constexpr int kPairs = kColumns * kRows;
  static constexpr int kShares = kLanes < kPairs ? kLanes : kPairs;
  static constexpr int kOwn = kPairs / kShares;  // pairs whose sums a lane gets

  // A lane's channels of a row or a column, and its share of a column as it lies in memory.
  using Values = float[kDirectChannels];
  struct Bits {
    uint4 piece[Lane::kPieces];
  };

  // Two arrays of columns at one place along x and y, from the first of their dilation group on.
  struct Line {
    const char* first;
    const char* second;
    int last;  // column
  };

  // What a visitor of columns is told: where they are, and which the lane's own row meets.
  struct Spot {
    int x, y, column;
    Interval own;
  };

  // A few columns of both arrays.
  struct Columns {
    Bits first[kColumns], second[kColumns];
  };

  const AttentionParams& params;
  const DirectGrid& grid;
  const unsigned lane, group;
  DirectGroup* const groups;           // of the block
  const Lane first_lane, second_lane;  // of rows with head_dim and with value_dim channels
  const int own_row;                   // the row of the lane's own pairs
  Interval own;                        // columns along z that it meets

  __device__ DirectPairs(const AttentionParams& params, const DirectGrid& grid, DirectGroup* groups)
      : params(params),
        grid(grid),
        lane(threadIdx.x % kLanes),
        group(threadIdx.x / kLanes),
        groups(groups),
        first_lane(lane, params.head_dim),
        second_lane(lane, params.value_dim),
        own_row(lane % kRows) {
    DirectPlaces<kSide, kRows> places(params, grid, group);
    const DirectRun run = places.find(group, own_row, own);
    if (lane == 0) groups[group].run = run;
    __syncwarp();
  }

  __device__ __forceinline__ const DirectGroup& shared() const {
    return groups[ptx::computed_here(group)];
  }
  __device__ __forceinline__ const DirectRun& run() const { return shared().run; }

  // Array number `index` has the rows of the run.
  __device__ __forceinline__ void lay_rows(int index, const Array& array) const {
    const DirectRun& here = run();
    lay(index, array, here.token(params.axis, 0), here.token(params.axis, 1),
        here.token(params.axis, 2));
  }

  // Array number `index` has columns; they begin with the first of the run's dilation groups.
  __device__ __forceinline__ void lay_columns(int index, const Array& array) const {
    const DirectRun& here = run();
    lay(index, array, here.axis[0].group, here.axis[1].group, here.axis[2].group);
  }

  // Where an array that is laid has the rows, or where its columns begin.
  template <typename Element>
  __device__ __forceinline__ Element* begin(int index, const Array& array, int batch,
                                            int head) const {
    return static_cast<Element*>(array.data) + shared().offsets[index] + batch * array.batch +
           head * array.head;
  }

  __device__ __forceinline__ long long row_step(const Array& array) const {
    return params.axis[2].dilation * array.axis[2];
  }

  // The lane's own pair number i, among the columns.
  __device__ __forceinline__ int own_column(int i) const {
    return (i * kShares + lane % kShares) / kRows;
  }

  // Rows of the run; a short one repeats its last. Channels that do not exist are zero.
  __device__ __forceinline__ void load_rows(int index, const Array& array, const Lane& of,
                                            int batch, int head, Values (&rows)[kRows]) const {
    const T* row = begin<const T>(index, array, batch, head) + of.first;
    const int count = run().count;
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
      Bits bits;
#pragma unroll
      for (int i = 0; i < Lane::kPieces; ++i) {
        bits.piece[i] = make_uint4(0, 0, 0, 0);
        if (of.has(i)) bits.piece[i] = __ldg(reinterpret_cast<const uint4*>(row + i * Lane::kStep));
      }
      widen_all(bits, rows[t]);
      if (t + 1 < count) row += row_step(array);
    }
  }

  __device__ __forceinline__ void store_rows(int index, const Array& array, const Lane& of,
                                             int batch, int head, const Values (&rows)[kRows],
                                             const float (&factors)[kRows]) const {
    T* row = begin<T>(index, array, batch, head) + of.first;
    const int count = run().count;
#pragma unroll
    for (int t = 0; t < kRows; ++t) {
#pragma unroll
      for (int i = 0; i < Lane::kPieces; ++i) {
        if (t < count && of.has(i)) {
          // Nobody reads it soon.
          __stcs(reinterpret_cast<uint4*>(row + i * Lane::kStep), narrowed(rows[t], i, factors[t]));
        }
      }
      row += row_step(array);
    }
  }

  // Calls `visit(spot, columns, beside)` for all columns, a few at a time. The arrays of columns
  // are the first two. What else is wanted of columns is fetched with them: `mark(x, y)` is found
  // once for each place along x and y, and `read(mark, line, column)` gives what stands beside.
  template <typename Mark, typename Read, typename Visit>
  __device__ __forceinline__ void walk(const Array& first, const Array& second, int batch, int head,
                                       Mark mark, Read read, Visit visit) const {
    const char* const first_begin = first_column(0, first, first_lane, batch, head);
    const char* const second_begin = first_column(1, second, second_lane, batch, head);
    if (grid.sharers > 0) {
      ask(0, first, batch, head, params.head_dim, grid.first_step);
      ask(1, second, batch, head, params.value_dim, grid.second_step);
    }
    for (int x_step = 0; x_step < run().axis[0].steps; ++x_step) {
      for (int y_step = 0; y_step < run().axis[1].steps; ++y_step) {
        const DirectExtent(&along)[kAxes] = run().axis;
        const int x = along[0].column(x_step), y = along[1].column(y_step);
        const bool is_inside =
            along[0].begin + x_step < along[0].end && along[1].begin + y_step < along[1].end;
        const Line line{at(first_begin, grid.first_step, x, y),
                        at(second_begin, grid.second_step, x, y), along[2].end - 1};
        const auto here = mark(x, y);
        Spot spot{x, y, along[2].begin, {own.begin, is_inside ? own.end : 0}};
        const int past = spot.column + along[2].steps;
#pragma unroll 1
        for (; spot.column < past; spot.column += kColumns) {
          Columns columns;
          fetch(line, spot.column, columns);
          visit(spot, columns, read(here, line, spot.column));
        }
      }
    }
  }

  // The same where nothing stands beside columns: `visit(spot, columns)`.
  template <typename Visit>
  __device__ __forceinline__ void walk(const Array& first, const Array& second, int batch, int head,
                                       Visit visit) const {
    struct Nothing {};
    walk(
        first, second, batch, head, [](int, int) { return Nothing{}; },
        [](Nothing, const Line&, int) { return Nothing{}; },
        [&](const Spot& spot, const Columns& columns, Nothing) { visit(spot, columns); });
  }

  // The lane's part of the products of columns and the rows.
  static __device__ __forceinline__ void multiply(const Bits (&columns)[kColumns],
                                                  const Values (&rows)[kRows],
                                                  float (&sums)[kPairs]) {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      Values column;
      widen_all(columns[i], column);
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
        float sum = rows[t][0] * column[0];
#pragma unroll
        for (int c = 1; c < kDirectChannels; ++c) sum += rows[t][c] * column[c];
        sums[i * kRows + t] = sum;
      }
    }
  }

  // Adds columns to the sums of every row, under the weights that the lanes have.
  __device__ __forceinline__ void add(const Bits (&columns)[kColumns], const float (&weights)[kOwn],
                                      Values (&sums)[kRows]) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      Values column;
      widen_all(here(columns[i]), column);
#pragma unroll
      for (int t = 0; t < kRows; ++t) {
        const int pair = i * kRows + t;
        const float weight = of_lane(weights[pair / kShares], pair % kShares);
#pragma unroll
        for (int c = 0; c < kDirectChannels; ++c) sums[t][c] += weight * column[c];
      }
    }
  }

  __device__ __forceinline__ float of_lane(float value, int index) const {
    return __shfl_sync(kAllLanes, value, index, kLanes);
  }

  // Over the lanes that have pairs of the same row.
  template <typename Both>
  static __device__ __forceinline__ float over_row(float value, Both both) {
#pragma unroll
    for (int mask = kRows; mask < kShares; mask <<= 1) {
      value = both(value, __shfl_xor_sync(kAllLanes, value, mask));
    }
    return value;
  }

  // Adds the bias to scores of the lane's own pairs, in powers of two.
  template <int kScores>
  __device__ __forceinline__ void add_bias(const Spot& spot, int head,
                                           float (&scores)[kScores]) const {
    const DirectExtent(&along)[kAxes] = run().axis;
    const int x = distance(spot.x, along[0].row) + params.axis[0].kernel_size - 1;
    const int y = distance(spot.y, along[1].row) + params.axis[1].kernel_size - 1;
    const T* const entries = params.bias.at<const T>(0, x, y, 0, head);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int column = spot.column + own_column(i);
      if (!spot.own.contains(column)) continue;
      const int z = distance(column, along[2].row + own_row) + params.axis[2].kernel_size - 1;
      scores[i] += widen(entries[z * params.bias.axis[2]]) * kLog2E;
    }
  }

 private:
  // The next columns of both arrays; all their loads are under way together. Those past the last,
  // which is repeated, have no weight.
  __device__ __forceinline__ void fetch(const Line& line, int column, Columns& columns) const {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int at = min_of(column + i, line.last);
      fetch(ptx::moved(line.first, at, grid.first_step[2]), first_lane, columns.first[i]);
      fetch(ptx::moved(line.second, at, grid.second_step[2]), second_lane, columns.second[i]);
    }
  }

  // Has the only line of columns come near before they are loaded. Neighboring runs see nearly the
  // same ones, and each asks for some.
  __device__ __forceinline__ void ask(int index, const Array& array, int batch, int head,
                                      int channels, const int (&steps)[kAxes]) const {
    constexpr int kLineBytes = 128;
    constexpr int kPieces = (kLanes * kDirectChannels * sizeof(T) + kLineBytes - 1) / kLineBytes;
    constexpr int kTogether = kLanes / kPieces;  // columns
    const DirectExtent(&along)[kAxes] = run().axis;
    const int piece = lane % kPieces * (kLineBytes / sizeof(T));
    if (piece >= channels) return;
    const T* const column = begin<const T>(index, array, batch, head) + piece;
    const char* const line =
        at(reinterpret_cast<const char*>(column), steps, along[0].begin, along[1].begin);
    const int turn = along[2].row / kRows % grid.sharers + lane / kPieces * grid.sharers;
    for (int z = along[2].begin + turn; z < along[2].end; z += kTogether * grid.sharers) {
      ptx::prefetch(ptx::moved(line, z, steps[2]));
    }
  }

  // From the query to the key.
  static __device__ __forceinline__ int distance(int column, int row) {
    return kSide == Side::kQuery ? column - row : row - column;
  }

  __device__ __forceinline__ void lay(int index, const Array& array, int x, int y, int z) const {
    if (lane != 0) return;
    groups[group].offsets[index] = x * array.axis[0] + y * array.axis[1] + z * array.axis[2];
  }

  static __device__ __forceinline__ const char* at(const char* begin, const int (&steps)[kAxes],
                                                   int x, int y) {
    return ptx::moved(ptx::moved(begin, x, steps[0]), y, steps[1]);
  }

  // The lane's share of the first column. Lanes without channels read the first ones: what they
  // multiply them with is zero.
  __device__ __forceinline__ const char* first_column(int index, const Array& array, const Lane& of,
                                                      int batch, int head) const {
    const T* column = begin<const T>(index, array, batch, head) + (of.has(0) ? of.first : 0);
    return reinterpret_cast<const char*>(column);
  }

  static __device__ __forceinline__ void fetch(const char* column, const Lane& of, Bits& bits) {
#pragma unroll
    for (int i = 0; i < Lane::kPieces; ++i) {
      const int distance = i == 0 || of.has(i) ? i * Lane::kStep * int(sizeof(T)) : 0;
      bits.piece[i] = __ldg(reinterpret_cast<const uint4*>(column + distance));
    }
  }

  static __device__ __forceinline__ uint4 narrowed(const Values& values, int piece, float factor) {
    const float* const from = values + piece * Lane::kVector;
    if constexpr (sizeof(T) == 4) {
      return make_uint4(__float_as_uint(from[0] * factor), __float_as_uint(from[1] * factor),
                        __float_as_uint(from[2] * factor), __float_as_uint(from[3] * factor));
    } else {
      return make_uint4(
          pack<T>(from[0] * factor, from[1] * factor), pack<T>(from[2] * factor, from[3] * factor),
          pack<T>(from[4] * factor, from[5] * factor), pack<T>(from[6] * factor, from[7] * factor));
    }
  }

  static __device__ __forceinline__ void widen_all(const Bits& bits, Values& values) {
    const T* elements = reinterpret_cast<const T*>(&bits);
#pragma unroll
    for (int c = 0; c < kDirectChannels; ++c) values[c] = widen(elements[c]);
  }

  // Two elements to a word are widened again where they are needed again: kept wide they would take
  // twice the registers.
  static __device__ __forceinline__ Bits here(Bits bits) {
    if constexpr (sizeof(T) == 2) {
      uint4& word = bits.piece[0];
      word.x = ptx::computed_here(word.x);
      word.y = ptx::computed_here(word.y);
      word.z = ptx::computed_here(word.z);
      word.w = ptx::computed_here(word.w);
    }
    return bits;
  }
};

}  // namespace cupyna
