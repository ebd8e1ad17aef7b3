// The device geometry, compiled by a host compiler and called through a C interface.
#include "geometry/box.cuh"
#include "geometry/column_bits.cuh"
#include "geometry/mask.cuh"
#include "geometry/slots.cuh"
#include "geometry/tile.cuh"
#include "geometry/window.cuh"

extern "C" {

// bounds: window_begin, window_end, query_begin, query_end of every position, [4, length].
void line_bounds(int length, int kernel_size, int stride, int is_causal, int* bounds) {
  const cupyna::Line line{length, kernel_size, stride, is_causal != 0};
  for (int position = 0; position < length; ++position) {
    const cupyna::Interval keys = cupyna::window_of(line, position);
    const cupyna::Interval queries = cupyna::queries_of(line, position);
    bounds[position] = keys.begin;
    bounds[length + position] = keys.end;
    bounds[2 * length + position] = queries.begin;
    bounds[3 * length + position] = queries.end;
  }
}

// fields: the fields of every AxisTile, [tiles, 7]; returns the number of tiles.
int axis_tiles(int length, int kernel_size, int stride, int dilation, int is_causal, int extent,
               int is_key_side, int* fields) {
  const cupyna::AxisTiling tiling{length, kernel_size, stride, dilation, is_causal != 0, extent};
  const cupyna::Side side = is_key_side ? cupyna::Side::kKey : cupyna::Side::kQuery;
  const int count = tiling.count();
  for (int index = 0; index < count; ++index) {
    const cupyna::AxisTile tile = tiling.tile(index, side);
    const int values[7] = {tile.group,   tile.begin,        tile.end,       tile.box_begin,
                           tile.box_end, tile.common_begin, tile.common_end};
    for (int i = 0; i < 7; ++i) fields[7 * index + i] = values[i];
  }
  return count;
}

// Box tiles of one tile and, for each, whether it is dense; returns their number.
int box_tiles(const int* fields, int extent, int* dense) {
  const cupyna::AxisTile tile{fields[0], fields[1], fields[2], fields[3],
                              fields[4], fields[5], fields[6]};
  const int count = tile.box_tiles(extent);
  for (int index = 0; index < count; ++index) {
    const int first = tile.box_begin + index * extent;
    const int past = first + extent < tile.box_end ? first + extent : tile.box_end;
    dense[index] = tile.is_dense(first, past);
  }
  return count;
}

// Whether a window, as begin and end along three axes, holds a coordinate of a key tile at
// `origin`.
int window_contains(const int* bounds, const int* origin, const int* at) {
  const cupyna::Window window{
      {bounds[0], bounds[1]}, {bounds[2], bounds[3]}, {bounds[4], bounds[5]}};
  const cupyna::PackedWindow packed(window, {origin[0], origin[1], origin[2]});
  return packed.contains(cupyna::pack_fields(at[0], at[1], at[2]));
}

// The columns of a key tile that a window holds, as bits, 32 to a word.
void window_columns(const int* bounds, const int* origin, const int* extents, int words,
                    unsigned* bits) {
  const cupyna::KeyExtents keys{extents[0], extents[1], extents[2]};
  const int first_set[3] = {0, keys.first_set_of_y(), keys.first_set_of_z()};
  for (int word = 0; word < words; ++word) {
    bits[word] = ~0u;
    for (int axis = 0; axis < 3; ++axis) {
      const cupyna::Interval along =
          cupyna::inside({bounds[2 * axis], bounds[2 * axis + 1]}, origin[axis], extents[axis]);
      for (int i = 0; i < 32; ++i) {
        const int column = 32 * word + i;
        const cupyna::Coordinate at = keys.coordinate_of(column);
        if (column >= keys.product() || !keys.holds(first_set[axis] + along.begin, at) ||
            keys.holds(first_set[axis] + along.end, at)) {
          bits[word] &= ~(1u << i);
        }
      }
    }
  }
}

unsigned interval_bits(int begin, int end, int first) {
  return cupyna::Interval{begin, end}.bits_from(first);
}

// Columns of a part as coordinates, [columns, 3], and for a window the first slot with a key from
// each column on, [columns]; returns the number of columns. Boxes are begin and end for each axis.
int part_slots(const int* box, const int* bounds, const int* kernel_size, int* at, int* first) {
  const cupyna::Part part(cupyna::Window{{box[0], box[1]}, {box[2], box[3]}, {box[4], box[5]}});
  const cupyna::Window window{
      {bounds[0], bounds[1]}, {bounds[2], bounds[3]}, {bounds[4], bounds[5]}};
  const cupyna::Slots slots{kernel_size[0], kernel_size[1], kernel_size[2]};
  for (int column = 0; column < part.columns(); ++column) {
    const cupyna::Coordinate in = part.at(column);
    const cupyna::Coordinate to{part.origin.x + in.x, part.origin.y + in.y, part.origin.z + in.z};
    at[3 * column] = to.x;
    at[3 * column + 1] = to.y;
    at[3 * column + 2] = to.z;
    first[column] = slots.first_from(window, to);
  }
  return part.columns();
}
}
