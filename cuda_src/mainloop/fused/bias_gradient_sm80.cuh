// The gradient of the bias: gradients of scores, summed by key - query. Nothing of size tokens x
// window is stored, and every run gives the same bits.
//
// A block takes one head and one *distance* between a tile of queries and a tile of keys, and walks
// over all pairs of tiles at that distance. Row r and column c then always differ by the same
// offset, so the gradients of scores of all pairs are added where they stand, in registers. Only at
// the end the block adds the elements that have one offset, and leaves a sum for each:
//
//   for every tile of queries that meets the tile of keys at this distance (of the block's part)
//     Q, K | dO, V -> shared memory (asynchronous copies, two groups)
//     P     = exp(scale Q K^T + bias - lse)     the bias is the same for all pairs
//     sums += P (dO V^T - delta)
//   sums -> shared memory -> sums by offset -> global memory
//
// FusedBiasSums adds up what all blocks left for an entry, in a fixed order.
#pragma once

#include "../../common/numeric.cuh"
#include "edges_sm80.cuh"
#include "products_sm80.cuh"
#include "tile_sm80.cuh"

namespace cupyna {

// Offsets between the tokens of two tiles along an axis: those of columns and rows of these
// extents.
__device__ __forceinline__ int offsets_of(const TileAxis& tile) {
  return (1 << tile.row_extent_log2) + tile.column_extent - 1;
}

// Two neighboring biases.
template <typename T>
struct alignas(2 * sizeof(T)) BiasPair {
  T left, right;
};

template <typename T, Flavor kFlavor, int kHeadDim, int kWarps, int kColumns>
struct FusedBiasGradientSm80 {
  using Tile = FusedTileSm80<T, Side::kQuery, 2, kHeadDim, 1, kWarps, kColumns, 1, 1>;
  using Products = ProductsSm80<T, kFlavor, kHeadDim, 1, kColumns>;
  using Scores = typename Products::Scores;
  static constexpr int kThreads = Tile::kThreads, kRows = Tile::kRows;

  struct Shared : Tile::Shared {
    // Of every thread's scores: registers are too short for them.
    BiasPair<T> biases[kColumns / 8][2][kThreads];
    // Of rows, as of columns: coordinates inside a tile, and elements from the first one.
    unsigned row_fields[kRows];
    typename Tile::Step row_steps[kRows];
    int row_tokens[kRows];
    // Of the next 32 tiles of queries: along each axis, which of them meet their tile of keys, and
    // what they are.
    unsigned met[kAxes];
    AxisTile tiles[kAxes][32];
    int batches[32];
  };
  static_assert((2 * kRows + 2 * kColumns) * kHeadDim * sizeof(T) >= kRows * kColumns * 4,
                "sums take the place of the tiles");

  const BiasGradientParams& params;
  Shared& shared;
  Coordinate distance;  // of a tile of keys from its tile of queries

  __device__ FusedBiasGradientSm80(const BiasGradientParams& params, Shared& shared)
      : params(params), shared(shared) {
    unsigned rest = blockIdx.x;
    const int z = along(2, rest), y = along(1, rest), x = along(0, rest);
    distance = Coordinate{x, y, z};
  }

  __device__ __forceinline__ void run() {
    lay_steps();
    __syncthreads();
    Scores sums = {};
    const int warp = threadIdx.x / 32;
    lay_biases(warp);
    const unsigned tiles = static_cast<unsigned>(params.tile[0].row_tiles) *
                           params.tile[1].row_tiles * params.tile[2].row_tiles;
    const long long works = static_cast<long long>(tiles) * params.batches;
    for (long long begin = blockIdx.z; begin < works; begin += 32ll * params.parts) {
      find_tiles(begin, works, tiles);
      __syncthreads();
      unsigned left = shared.met[0] & shared.met[1] & shared.met[2];
      for (; left != 0; left &= left - 1) add_pair_of_tiles(sums, __ffs(left) - 1, warp);
      __syncthreads();  // all have read what was found
    }
    store(sums[0], warp);
  }

 private:
  __device__ __forceinline__ int along(int i, unsigned& rest) const {
    const DistanceAxis& axis = params.distance[i];
    const int place = static_cast<int>(rest % axis.tiles);
    rest /= axis.tiles;
    return axis.first + place * params.tile[i].column_extent;
  }

  __device__ __forceinline__ Tile tile_of(int batch) const {
    return Tile(params, Operands{params.q, params.dout}, Operands{params.k, params.v},
                params.statistics, shared, batch);
  }

  __device__ __forceinline__ void lay_steps() const {
    const Tile tile = tile_of(0);
    tile.lay_columns();
    for (int row = threadIdx.x; row < kRows; row += kThreads) {
      const Coordinate at = row_coordinate(row);
      shared.row_fields[row] = pack_fields(at.x, at.y, at.z);
      shared.row_steps[row] =
          typename Tile::Step{tile.step(params.q, at), tile.step(params.dout, at)};
      shared.row_tokens[row] = tile.token_step(at);
    }
  }

  // The tiles of queries from `begin` on: a lane for each, a warp for each axis.
  __device__ __forceinline__ void find_tiles(long long begin, long long works,
                                             unsigned tiles) const {
    const int lane = threadIdx.x % 32;
    const long long work = begin + static_cast<long long>(lane) * params.parts;
    // A division of 64 bits costs a multiple of one of 32.
    const bool is_short = works >> 32 == 0;
    const unsigned batch =
        is_short ? static_cast<unsigned>(work) / tiles : static_cast<unsigned>(work / tiles);
    const Tile tile = tile_of(0);
#pragma unroll 1
    for (int i = threadIdx.x / 32; i < kAxes; i += kWarps) {
      unsigned index = static_cast<unsigned>(work - static_cast<long long>(batch) * tiles);
      for (int j = kAxes - 1; j > i; --j) index /= params.tile[j].row_tiles;
      const unsigned count = params.tile[i].row_tiles;
      const AxisTile own = tile.tiling(i).tile(static_cast<int>(index % count), Side::kQuery);
      const int origin = own.begin + (i == 0 ? distance.x : i == 1 ? distance.y : distance.z);
      const bool is_met = work < works && origin < own.box_end &&
                          origin + params.tile[i].column_extent > own.box_begin;
      shared.tiles[i][lane] = own;
      const unsigned met = __ballot_sync(0xffffffffu, is_met);
      if (lane == 0) shared.met[i] = met;
      if (i == 0) shared.batches[lane] = batch;
    }
  }

  // The bias of each of the thread's scores; of offsets that no window has, none.
  __device__ __forceinline__ void lay_biases(int warp) const {
#pragma unroll 1
    for (int i = 0; i < kColumns / 4; ++i) {
      const Coordinate row = row_coordinate(Tile::row_of(warp, 0, i % 2));
      const int column = i / 2 * 8 + threadIdx.x % 4 * 2;
      shared.biases[i / 2][i % 2][threadIdx.x] =
          BiasPair<T>{bias_of(row, column), bias_of(row, column + 1)};
    }
  }

  __device__ __forceinline__ T bias_of(const Coordinate& row, int column) const {
    const unsigned field = shared.fields[column];
    const Coordinate to = unpack_fields(field);
    const int x = entry(0, distance.x + to.x - row.x), y = entry(1, distance.y + to.y - row.y),
              z = entry(2, distance.z + to.z - row.z);
    if (field == outside_fields() || x < 0 || y < 0 || z < 0) return narrow<T>(0);
    return *params.bias.template at<T>(0, x, y, z, blockIdx.y);
  }

  // Index of an offset along an axis of the bias, or -1.
  __device__ __forceinline__ int entry(int i, int offset) const {
    const int most = params.axis[i].kernel_size - 1;
    return offset >= -most && offset <= most ? offset + most : -1;
  }

  __device__ __forceinline__ Coordinate row_coordinate(int row) const {
    const int log2_y = params.tile[1].row_extent_log2, log2_z = params.tile[2].row_extent_log2;
    return Coordinate{row >> (log2_y + log2_z), row >> log2_z & ((1 << log2_y) - 1),
                      row & ((1 << log2_z) - 1)};
  }

  // `found` names one of the tiles that find_tiles() left.
  __device__ __forceinline__ void add_pair_of_tiles(Scores& sums, int found, int of_warp) const {
    // Registers are too short to keep addresses of fragments from one pair to the next.
    const int warp = ptx::computed_here(of_warp), first = ptx::computed_here(0);
    const Tile tile = tile_of(shared.batches[found]);
    if (threadIdx.x < kAxes) {
      const AxisTile mine = shared.tiles[threadIdx.x][found];
      shared.own[threadIdx.x] = mine;
      shared.line[threadIdx.x] = tile.tiling(threadIdx.x).line(mine.group);
    }
    __syncthreads();
    const AxisTile(&own)[kAxes] = shared.own;
    const Coordinate begin{own[0].begin, own[1].begin, own[2].begin};
    const Coordinate origin{begin.x + distance.x, begin.y + distance.y, begin.z + distance.z};
    const PackedWindow rows(
        Window{Interval{own[0].begin, own[0].end}, Interval{own[1].begin, own[1].end},
               Interval{own[2].begin, own[2].end}},
        begin);
    const PackedWindow keys(Window{Interval{own[0].box_begin, own[0].box_end},
                                   Interval{own[1].box_begin, own[1].box_end},
                                   Interval{own[2].box_begin, own[2].box_end}},
                            origin);
    const int kv_head = tile.head / params.head_group;
    copy<kRows>(shared.rows[0], params.q, tile.row_offset(params.q, begin, tile.head),
                shared.row_fields, shared.row_steps, &Tile::Step::first, rows, params.head_dim);
    copy<kColumns>(shared.first[0], params.k, tile.row_offset(params.k, origin, kv_head),
                   shared.fields, shared.steps, &Tile::Step::first, keys, params.head_dim);
    const Statistics* statistics = params.statistics + tile.query_index(begin, tile.head);
    for (int row = threadIdx.x; row < kRows; row += kThreads) {
      ptx::copy_async_8(ptx::shared_address(&shared.statistics[row]),
                        statistics + shared.row_tokens[row],
                        rows.contains(shared.row_fields[row]) ? 8 : 0);
    }
    ptx::copy_async_commit();
    copy<kRows>(shared.rows[1], params.dout, tile.row_offset(params.dout, begin, tile.head),
                shared.row_fields, shared.row_steps, &Tile::Step::second, rows, params.value_dim);
    copy<kColumns>(shared.second[0], params.v, tile.row_offset(params.v, origin, kv_head),
                   shared.fields, shared.steps, &Tile::Step::second, keys, params.value_dim);
    ptx::copy_async_commit();
    tile.lay_rows();
    ptx::copy_async_wait<1>();
    __syncthreads();
    const typename Tile::WarpBox box = shared.boxes[warp];
    const bool meets = tile.meets(box.any, origin);
    Scores weights = {};
    if (meets) weigh(weights, tile, shared.first[0] + first, box, origin, warp);
    ptx::copy_async_wait<0>();
    __syncthreads();
    if (meets) {
      Scores gradients = {};
      const unsigned rows = Products::place_of_rows(shared.rows[1], warp);
      Products::multiply_rows(gradients, shared.second[0] + first,
                              [&](unsigned (&fragment)[4], int row_tile, int depth) {
                                Products::load_row(fragment, rows, row_tile, depth);
                              });
#pragma unroll
      for (int pair = 0; pair < kColumns / 8; ++pair) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float delta = shared.statistics[Tile::row_of(warp, 0, i / 2)].delta;
          sums[0][pair][i] += weights[0][pair][i] * (gradients[0][pair][i] - delta);
        }
      }
    }
    __syncthreads();  // all warps are done with these tiles
  }

  __device__ __forceinline__ void weigh(Scores& weights, const Tile& tile, const T* keys,
                                        const typename Tile::WarpBox& box, const Coordinate& origin,
                                        int warp) const {
    const unsigned rows = Products::place_of_rows(shared.rows[0], warp);
    Products::multiply_rows(weights, keys, [&](unsigned (&fragment)[4], int row_tile, int depth) {
      Products::load_row(fragment, rows, row_tile, depth);
    });
#pragma unroll
    for (int pair = 0; pair < kColumns / 8; ++pair) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float lse_log2 = shared.statistics[Tile::row_of(warp, 0, half)].lse_log2;
        const BiasPair<T> bias = shared.biases[pair][half][threadIdx.x];
        float& left = weights[0][pair][2 * half];
        float& right = weights[0][pair][2 * half + 1];
        left = left * params.scale_log2 + (widen(bias.left) * kLog2E - lse_log2);
        right = right * params.scale_log2 + (widen(bias.right) * kLog2E - lse_log2);
        left = ptx::exp2_approx(left);
        right = ptx::exp2_approx(right);
      }
    }
    // A row that stands in for none meets nothing.
    if (is_cut() || !tile.is_within(box.all, origin)) {
      mask_scores(tile, weights, origin, warp, 0.f);
    }
  }

  __device__ __forceinline__ bool is_cut() const {
    bool is_cut = false;
#pragma unroll
    for (int i = 0; i < kAxes; ++i) {
      is_cut |= shared.own[i].end - shared.own[i].begin < 1 << params.tile[i].row_extent_log2;
    }
    return is_cut;
  }

  // Tokens of one side; what lies outside the box of those that are there is zero.
  template <int kTokens>
  __device__ __forceinline__ void copy(T* target, const Array& array, long long offset,
                                       const unsigned (&fields)[kTokens],
                                       const typename Tile::Step (&steps)[kTokens],
                                       long long Tile::Step::* step, const PackedWindow& box,
                                       int channels) const {
    constexpr int kChunks = Tile::kChunks;
    const int thread = ptx::computed_here(threadIdx.x);
    const int chunk = thread % kChunks;  // the same for all tokens of a thread
    const bool has_chunk = chunk * Tile::kPerChunk < channels;
    const T* source = static_cast<const T*>(array.data) + offset + chunk * Tile::kPerChunk;
#pragma unroll 4
    for (int i = 0; i < kTokens * kChunks / kThreads; ++i) {
      const int token = thread / kChunks + i * (kThreads / kChunks);
      const bool is_there = has_chunk && box.contains(fields[token]);
      ptx::copy_async_16(Tile::address(target, token, chunk), source + steps[token].*step,
                         is_there ? 16 : 0);
    }
  }

  // Adds the elements of each offset, rows in order.
  __device__ __forceinline__ void store(const float (&sums)[kColumns / 8][4], int warp) const {
    float* grid = reinterpret_cast<float*>(shared.rows);
#pragma unroll
    for (int pair = 0; pair < kColumns / 8; ++pair) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = Tile::row_of(warp, 0, half);
        float2* target = reinterpret_cast<float2*>(grid + row * kColumns + pair * 8);
        target[threadIdx.x % 4] = make_float2(sums[pair][2 * half], sums[pair][2 * half + 1]);
      }
    }
    __syncthreads();
    const TileAxis(&tile)[kAxes] = params.tile;
    const int y_offsets = offsets_of(tile[1]), z_offsets = offsets_of(tile[2]);
    const int offsets = offsets_of(tile[0]) * y_offsets * z_offsets;
    float* found =
        params.partial_sums +
        ((static_cast<long long>(blockIdx.z) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) *
            offsets;
    for (int offset = threadIdx.x; offset < offsets; offset += kThreads) {
      const Coordinate last = row_coordinate(kRows - 1);
      const int x = offset / (y_offsets * z_offsets) - last.x,
                y = offset / z_offsets % y_offsets - last.y, z = offset % z_offsets - last.z;
      float total = 0;
      for (int row = 0; row < kRows; ++row) {
        const Coordinate at = row_coordinate(row);
        const int to_x = at.x + x, to_y = at.y + y, to_z = at.z + z;
        const bool is_there = to_x >= 0 && to_x < tile[0].column_extent && to_y >= 0 &&
                              to_y < tile[1].column_extent && to_z >= 0 &&
                              to_z < tile[2].column_extent;
        const int column = (to_x * tile[1].column_extent + to_y) * tile[2].column_extent + to_z;
        if (is_there) total += grid[row * kColumns + column];
      }
      found[offset] = total;
    }
  }
};

}  // namespace cupyna
