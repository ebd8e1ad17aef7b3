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

  // Word `word` of a set: columns 32 word to 32 word + 31.
  CUPYNA_HOST_DEVICE unsigned word_of_set(int set, int word) const {
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i) {
      const int column = word * 32 + i;
      if (column >= product()) break;
      const int at_z = column % z, at_y = column / z % y, at_x = column / (z * y);
      const bool is_in = set >= first_set_of_z()   ? at_z >= set - first_set_of_z()
                         : set >= first_set_of_y() ? at_y >= set - first_set_of_y()
                                                   : at_x >= set;
      bits |= unsigned(is_in) << i;
    }
    return bits;
  }
};

// Where an interval begins and ends inside a key tile.
CUPYNA_HOST_DEVICE Interval inside(const Interval& along, int origin, int extent) {
  return Interval{min_of(max_of(along.begin - origin, 0), extent),
                  min_of(max_of(along.end - origin, 0), extent)};
}

}  // namespace cupyna
