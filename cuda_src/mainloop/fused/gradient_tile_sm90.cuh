// What a block of the fused backward on Hopper works on: a tile of keys and the walk over the
// queries that see them, or a tile of queries and the walk over their keys.
#pragma once

#include "../../common/hopper_gradient_params.cuh"
#include "../../geometry/column_bits.cuh"

namespace cupyna {

// No position reaches it, and sums with it do not overflow.
constexpr int kFarPosition = 1 << 29;

// A tile with what its rows meet, laid ahead of those who work on it.
template <Side kSide, int kRows>
struct GradientPlanSm90 {
  AxisTile own[kAxes];
  int head, batch;
  int steps;           // of the walk
  Coordinate start;    // where it begins
  Interval shares[2];  // of columns along the split axis that each consumer's rows meet
  Interval along[kRows + kAxes - 1];  // columns that coordinates of the rows meet, axis after axis
  Window windows[kRows];
  Window common[kRows / 16];  // what all rows of a warp see
  Statistics statistics[kSide == Side::kQuery ? kRows : 1];
};

template <Side kSide_, typename Plan_>
struct GradientTileSm90 {
  using Plan = Plan_;
  static constexpr Side kSide = kSide_;

  const HopperGradientParams& params;
  const Plan& plan;  // in shared memory

  __device__ __forceinline__ const AxisTile& own(int a) const { return plan.own[a]; }

  __device__ __forceinline__ AxisTiling tiling(int a) const {
    const AxisParams& axis = params.axis[a];
    return AxisTiling{axis.length,   axis.kernel_size,    axis.stride,
                      axis.dilation, axis.is_causal != 0, params.tile[a].row_extent};
  }

  // First position of a consumer's box of rows.
  __device__ __forceinline__ Coordinate corner(int consumer) const {
    return Coordinate{own(0).begin + split_offset(0, consumer),
                      own(1).begin + split_offset(1, consumer),
                      own(2).begin + split_offset(2, consumer)};
  }

  // Where a consumer's row lies in the tile.
  __device__ __forceinline__ Coordinate offset_of(int consumer, int row) const {
    const int log2_y = params.tile[1].rows_log2, log2_z = params.tile[2].rows_log2;
    return Coordinate{split_offset(0, consumer) + (row >> (log2_y + log2_z)),
                      split_offset(1, consumer) + (row >> log2_z & ((1 << log2_y) - 1)),
                      split_offset(2, consumer) + (row & ((1 << log2_z) - 1))};
  }

  // Where the walk begins along an axis. Tiles whose box is the whole axis begin where their rows
  // are, not all at its begin: so blocks that work at the same time add to different sums.
  __device__ __forceinline__ int walk_begin(int a, bool adds_sums) const {
    const AxisTile& tile = own(a);
    const int extent = params.tile[a].key_extent;
    const int length = tiling(a).line(tile.group).length;
    const bool is_whole = tile.box_begin == 0 && tile.box_end == length;
    return adds_sums && is_whole ? tile.begin / extent * extent : tile.box_begin;
  }

  // Position of a consumer's row; rows past the end of a cut tile repeat its last ones.
  __device__ __forceinline__ Coordinate position_of(int consumer, int row, bool& is_real) const {
    const Coordinate to = offset_of(consumer, row);
    const int x = own(0).begin + to.x, y = own(1).begin + to.y, z = own(2).begin + to.z;
    is_real = x < own(0).end && y < own(1).end && z < own(2).end;
    return Coordinate{min_of(x, own(0).end - 1), min_of(y, own(1).end - 1),
                      min_of(z, own(2).end - 1)};
  }

  __device__ __forceinline__ Coordinate token_of(const Coordinate& at) const {
    return Coordinate{own(0).group + at.x * params.axis[0].dilation,
                      own(1).group + at.y * params.axis[1].dilation,
                      own(2).group + at.z * params.axis[2].dilation};
  }

  // Columns that rows at a coordinate of the tile meet. A key past the end stands in for none and
  // meets no query, so that it adds to no sum; a query repeats the last one.
  __device__ __forceinline__ Interval partners_of(int a, int offset) const {
    const int at = own(a).begin + offset;
    if (kSide == Side::kKey && at >= own(a).end) return Interval{kFarPosition, -kFarPosition};
    const int real = min_of(at, own(a).end - 1);
    return partners(tiling(a).line(own(a).group), real, real);
  }

  // Columns along the split axis that the rows of a consumer meet.
  __device__ __forceinline__ Interval share_of(int consumer) const {
    const int axis = params.split_axis;
    const AxisTile& tile = own(axis);
    const int rows = 1 << params.tile[axis].rows_log2;
    const int first = tile.begin + consumer * rows, last = min_of(first + rows, tile.end) - 1;
    if (first > last) return Interval{kFarPosition, -kFarPosition};
    return partners(tiling(axis).line(tile.group), first, last);
  }

  // Index of a query in [batch, heads, tokens].
  __device__ __forceinline__ long long query_index(const Coordinate& at, int of_head) const {
    const int heads =
        kSide == Side::kQuery ? params.row_heads : params.row_heads * params.head_group;
    const Coordinate token = token_of(at);
    const long long plane = static_cast<long long>(plan.batch) * heads + of_head;
    return ((plane * params.axis[0].length + token.x) * params.axis[1].length + token.y) *
               params.axis[2].length +
           token.z;
  }

 private:
  __device__ __forceinline__ int split_offset(int a, int consumer) const {
    return params.split_axis == a ? consumer << params.tile[a].rows_log2 : 0;
  }

  static __device__ __forceinline__ Interval partners(const Line& line, int first, int last) {
    if (kSide == Side::kQuery) return Interval{line.window_begin(first), line.window_end(last)};
    return Interval{line.query_begin(first), line.query_end(last)};
  }
};

// A step of the walk, as consumers are told of it.
struct GradientPlace {
  Coordinate origin;
  int head;        // of the queries
  int turn;        // of the first query's chunks of sums (sum_turn), without its mask
  unsigned flags;  // a bit for each consumer whose rows meet the columns, from kSeen on one for
                   // each warp of theirs whose rows see all of them
  static constexpr int kSeen = 8;

  // The consumers whose rows meet the columns, a bit for each.
  __device__ __forceinline__ unsigned active() const { return flags & ((1u << kSeen) - 1); }
  __device__ __forceinline__ bool is_met_by(int consumer) const { return flags >> consumer & 1; }
  __device__ __forceinline__ bool is_seen_by(int warp) const { return flags >> (kSeen + warp) & 1; }
};

// The walk over column tiles, for keys under each of the heads that read them. It begins anywhere
// in the box, and goes round.
template <typename Tile>
struct GradientWalkSm90 {
  const Tile& tile;
  Coordinate origin;
  int head;  // of the columns

  __device__ __forceinline__ explicit GradientWalkSm90(const Tile& tile)
      : tile(tile),
        origin(tile.plan.start),
        head(Tile::kSide == Side::kQuery ? tile.plan.head / tile.params.head_group
                                         : tile.plan.head * tile.params.head_group) {}

  static __device__ __forceinline__ int steps(const Tile& tile) {
    const HopperAxis(&axis)[kAxes] = tile.params.tile;
    const int of_head = tile.own(0).box_tiles(axis[0].key_extent) *
                        tile.own(1).box_tiles(axis[1].key_extent) *
                        tile.own(2).box_tiles(axis[2].key_extent);
    return of_head * (Tile::kSide == Side::kQuery ? 1 : tile.params.head_group);
  }

  __device__ __forceinline__ void advance() {
    const HopperAxis(&axis)[kAxes] = tile.params.tile;
    origin.z += axis[2].key_extent;
    if (origin.z >= tile.own(2).box_end) {
      origin.z = tile.own(2).box_begin;
      origin.y += axis[1].key_extent;
      if (origin.y >= tile.own(1).box_end) {
        origin.y = tile.own(1).box_begin;
        origin.x += axis[0].key_extent;
        if (origin.x >= tile.own(0).box_end) origin.x = tile.own(0).box_begin;
      }
    }
    const Coordinate& start = tile.plan.start;
    head += origin.x == start.x && origin.y == start.y && origin.z == start.z;
  }

  __device__ __forceinline__ bool meets(const Interval& share) const {
    const int a = tile.params.split_axis;
    const int first = a == 0 ? origin.x : a == 1 ? origin.y : origin.z;
    return share.begin < first + tile.params.tile[a].key_extent && first < share.end;
  }
};

}  // namespace cupyna
