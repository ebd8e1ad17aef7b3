// Masks of a whole key tile as bit sets: bit c of a set stands for column c.
//
// For every axis and every coordinate `a` up to the tile's extent there is the set of columns whose
// coordinate is at least `a`. The columns of an interval are one set without another, those of a
// window the intersection over its axes. Columns that pad a tile are in no set.
#pragma once

#include "box.cuh"

namespace cupyna {

struct KeyExtents {
  int x, y, z;

  CUPYNA_HOST_DEVICE int product() const { return x * y * z; }
  // Sets of all axes: those of x first, each from coordinate 0 to the extent.
  CUPYNA_HOST_DEVICE int sets() const { return x + y + z + 3; }
  CUPYNA_HOST_DEVICE int first_set_of_y() const { return x + 1; }
  CUPYNA_HOST_DEVICE int first_set_of_z() const { return x + y + 2; }

  CUPYNA_HOST_DEVICE Coordinate coordinate_of(int column) const {
    const int outer = column / z;
    return Coordinate{outer / y, outer % y, column % z};
  }

  // Whether a set holds the column at a coordinate inside the tile.
  CUPYNA_HOST_DEVICE bool holds(int set, const Coordinate& at) const {
    if (set >= first_set_of_z()) return at.z >= set - first_set_of_z();
    return set >= first_set_of_y() ? at.y >= set - first_set_of_y() : at.x >= set;
  }
};

// Where an interval begins and ends inside a key tile.
CUPYNA_HOST_DEVICE Interval inside(const Interval& along, int origin, int extent) {
  return Interval{min_of(max_of(along.begin - origin, 0), extent),
                  min_of(max_of(along.end - origin, 0), extent)};
}

}  // namespace cupyna
