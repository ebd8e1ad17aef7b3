// What a block of the fused backward on Hopper works on: a tile of keys and the walk over the
// queries that see them, or a tile of queries and the walk over their keys.
#pragma once

#include "../../common/hopper_gradient_params.cuh"
#include "../../geometry/column_bits.cuh"

namespace cupyna {

// No position reaches it, and sums with it do not overflow.
constexpr int kFarPosition = 1 << 29;

template <Side kSide>
struct GradientTileSm90 {
  const HopperGradientParams& params;
  const AxisTile (&own)[kAxes];  // in shared memory
  int head, batch;

  __device__ __forceinline__ GradientTileSm90(const HopperGradientParams& params,
                                              const AxisTile (&own)[kAxes])
      : params(params), own(own) {
    const int plane = blockIdx.x / params.tiles;
    batch = plane / params.row_heads;
    head = plane - batch * params.row_heads;
  }

  // One thread for each axis finds the block's tile.
  __device__ __forceinline__ void place(AxisTile (&target)[kAxes]) const {
    if (threadIdx.x >= kAxes) return;
    const int a = threadIdx.x;
    int index = blockIdx.x % params.tiles;
    for (int i = kAxes - 1; i > a; --i) index /= params.tile[i].row_tiles;
    target[a] = tiling(a).tile(index % params.tile[a].row_tiles, kSide);
  }

  __device__ __forceinline__ AxisTiling tiling(int a) const {
    const AxisParams& axis = params.axis[a];
    return AxisTiling{axis.length,   axis.kernel_size,    axis.stride,
                      axis.dilation, axis.is_causal != 0, params.tile[a].row_extent};
  }

  // First position of a consumer's box of rows.
  __device__ __forceinline__ Coordinate corner(int consumer) const {
    return Coordinate{own[0].begin + split_offset(0, consumer),
                      own[1].begin + split_offset(1, consumer),
                      own[2].begin + split_offset(2, consumer)};
  }

  // Position of a consumer's row; rows past the end of a cut tile repeat its last ones.
  __device__ __forceinline__ Coordinate position_of(int consumer, int row, bool& is_real) const {
    const int log2_y = params.tile[1].rows_log2, log2_z = params.tile[2].rows_log2;
    const Coordinate first = corner(consumer);
    const int x = first.x + (row >> (log2_y + log2_z));
    const int y = first.y + (row >> log2_z & ((1 << log2_y) - 1));
    const int z = first.z + (row & ((1 << log2_z) - 1));
    is_real = x < own[0].end && y < own[1].end && z < own[2].end;
    return Coordinate{min_of(x, own[0].end - 1), min_of(y, own[1].end - 1),
                      min_of(z, own[2].end - 1)};
  }

  __device__ __forceinline__ Coordinate token_of(const Coordinate& at) const {
    return Coordinate{own[0].group + at.x * params.axis[0].dilation,
                      own[1].group + at.y * params.axis[1].dilation,
                      own[2].group + at.z * params.axis[2].dilation};
  }

  // Columns that a row meets. A key that stands in for none meets no query: it adds to no sum.
  __device__ __forceinline__ Window partners_of(const Coordinate& at, bool is_real) const {
    if (kSide == Side::kKey && !is_real) {
      constexpr Interval kNone{kFarPosition, -kFarPosition};
      return Window{kNone, kNone, kNone};
    }
    return Window{along(0, at.x, at.x), along(1, at.y, at.y), along(2, at.z, at.z)};
  }

  // Columns along the split axis that the rows of a consumer meet.
  __device__ __forceinline__ Interval share_of(int consumer) const {
    const int axis = params.split_axis;
    const AxisTile& tile = axis == 0 ? own[0] : axis == 1 ? own[1] : own[2];
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
    const long long plane = static_cast<long long>(batch) * heads + of_head;
    return ((plane * params.axis[0].length + token.x) * params.axis[1].length + token.y) *
               params.axis[2].length +
           token.z;
  }

 private:
  __device__ __forceinline__ int split_offset(int a, int consumer) const {
    return params.split_axis == a ? consumer << params.tile[a].rows_log2 : 0;
  }

  __device__ __forceinline__ Interval along(int a, int first, int last) const {
    return partners(tiling(a).line(own[a].group), first, last);
  }

  static __device__ __forceinline__ Interval partners(const Line& line, int first, int last) {
    if (kSide == Side::kQuery) return Interval{line.window_begin(first), line.window_end(last)};
    return Interval{line.query_begin(first), line.query_end(last)};
  }
};

// A step of the walk, as consumers are told of it.
struct GradientPlace {
  Coordinate origin;
  int head;         // of the queries
  unsigned active;  // a bit for each consumer whose rows meet the columns
};

// The walk over column tiles, for keys under each of the heads that read them.
template <Side kSide>
struct GradientWalkSm90 {
  const GradientTileSm90<kSide>& tile;
  Coordinate origin;
  int head, past_head;

  __device__ explicit GradientWalkSm90(const GradientTileSm90<kSide>& tile)
      : tile(tile), origin{tile.own[0].box_begin, tile.own[1].box_begin, tile.own[2].box_begin} {
    const int group = tile.params.head_group;
    head = kSide == Side::kQuery ? tile.head / group : tile.head * group;
    past_head = head + (kSide == Side::kQuery ? 1 : group);
  }

  __device__ __forceinline__ int steps() const {
    const HopperAxis(&axis)[kAxes] = tile.params.tile;
    return tile.own[0].box_tiles(axis[0].key_extent) * tile.own[1].box_tiles(axis[1].key_extent) *
           tile.own[2].box_tiles(axis[2].key_extent) * (past_head - head);
  }

  __device__ __forceinline__ void advance() {
    const HopperAxis(&axis)[kAxes] = tile.params.tile;
    origin.z += axis[2].key_extent;
    if (origin.z < tile.own[2].box_end) return;
    origin.z = tile.own[2].box_begin;
    origin.y += axis[1].key_extent;
    if (origin.y < tile.own[1].box_end) return;
    origin.y = tile.own[1].box_begin;
    origin.x += axis[0].key_extent;
    if (origin.x < tile.own[0].box_end) return;
    origin.x = tile.own[0].box_begin;
    ++head;
  }

  __device__ __forceinline__ bool meets(const Interval& share) const {
    const int a = tile.params.split_axis;
    const int first = a == 0 ? origin.x : a == 1 ? origin.y : origin.z;
    return share.begin < first + tile.params.tile[a].key_extent && first < share.end;
  }
};

}  // namespace cupyna
