// Tiles of tokens along one axis and the boxes of tokens they touch.
//
// The twin of cupyna/tiles.py. A tile cuts one side (queries, or keys in backward); its box is the
// interval of the other side that holds every partner of every token in it, and box tiles start at
// the box's own begin. Positions common to all tokens of a tile need no mask.
#pragma once

#include "host_device.cuh"
#include "window.cuh"

namespace cupyna {

enum class Side { kQuery, kKey };

struct AxisTile {
  int group;
  int begin, end;
  int box_begin, box_end;
  int common_begin, common_end;

  // Box tiles of `extent` positions; the last one may be cut short.
  CUPYNA_HOST_DEVICE int box_tiles(int extent) const {
    return (box_end - box_begin + extent - 1) / extent;
  }

  // Whether every pair of the tile with positions [first, past) is wanted.
  CUPYNA_HOST_DEVICE bool is_dense(int first, int past) const {
    return common_begin <= first && past <= common_end;
  }
};

// The tiles along one axis, group after group.
struct AxisTiling {
  int length;
  int kernel_size;
  int stride;
  int dilation;
  bool is_causal;
  int extent;

  CUPYNA_HOST_DEVICE Line line(int group) const {
    return Line{group_length(length, dilation, group), kernel_size, stride, is_causal};
  }

  CUPYNA_HOST_DEVICE int count() const {
    return longer_groups() * longer_tiles() + (dilation - longer_groups()) * shorter_tiles();
  }

  CUPYNA_HOST_DEVICE AxisTile tile(int index, Side side) const {
    // The groups that are one token longer come first.
    const int in_longer = longer_groups() * longer_tiles();
    const bool is_longer = index < in_longer;
    const int tiles = is_longer ? longer_tiles() : shorter_tiles();
    const int local = is_longer ? index : index - in_longer;
    const int group = local / tiles + (is_longer ? 0 : longer_groups());
    return tile_from(group, local % tiles * extent, side);
  }

  // The tile that begins at a position of a group.
  CUPYNA_HOST_DEVICE AxisTile tile_from(int group, int begin, Side side) const {
    const Line along = line(group);
    const int end = min_of(begin + extent, along.length);
    // Bounds never decrease: the box spans from the first token's partners to the last's, and the
    // positions common to all lie between the last token's begin and the first's end.
    if (side == Side::kQuery) {
      return AxisTile{group,
                      begin,
                      end,
                      along.window_begin(begin),
                      along.window_end(end - 1),
                      along.window_begin(end - 1),
                      along.window_end(begin)};
    }
    return AxisTile{group,
                    begin,
                    end,
                    along.query_begin(begin),
                    along.query_end(end - 1),
                    along.query_begin(end - 1),
                    along.query_end(begin)};
  }

 private:
  CUPYNA_HOST_DEVICE int longer_groups() const { return length % dilation; }
  CUPYNA_HOST_DEVICE int shorter_tiles() const { return (length / dilation + extent - 1) / extent; }
  CUPYNA_HOST_DEVICE int longer_tiles() const { return (length / dilation + extent) / extent; }
};

}  // namespace cupyna
