// Tiles of queries in a grid of three axes, the key tiles of their boxes, and the masks of edges.
//
// A mask compares coordinates inside a key tile with bounds, for three axes at once: coordinates
// are packed into fields of one word, each below a guard bit. Subtracting a bound from (coordinate
// | guard) leaves the guard where the coordinate is not smaller, and no field borrows from the
// next.
#pragma once

#include "mask.cuh"
#include "tile.cuh"

namespace cupyna {

struct Coordinate {
  int x, y, z;
};

constexpr int kFieldBits = 10;
constexpr int kFieldMost = (1 << (kFieldBits - 1)) - 1;
constexpr unsigned kGuards = 0x200u | 0x200u << kFieldBits | 0x200u << 2 * kFieldBits;

CUPYNA_HOST_DEVICE unsigned pack_fields(int x, int y, int z) {
  return static_cast<unsigned>(x | y << kFieldBits | z << 2 * kFieldBits);
}

CUPYNA_HOST_DEVICE Coordinate unpack_fields(unsigned packed) {
  return Coordinate{static_cast<int>(packed & kFieldMost),
                    static_cast<int>(packed >> kFieldBits & kFieldMost),
                    static_cast<int>(packed >> 2 * kFieldBits & kFieldMost)};
}

// The last coordinate along each axis, to compare packed ones with; it may lie beyond any tile.
CUPYNA_HOST_DEVICE unsigned last_fields(int x, int y, int z) {
  constexpr int kMost = kFieldMost - 1;
  return kGuards | pack_fields(min_of(x, kMost), min_of(y, kMost), min_of(z, kMost));
}

// No bound reaches this coordinate: columns that pad a key tile.
CUPYNA_HOST_DEVICE unsigned outside_fields() {
  return pack_fields(kFieldMost, kFieldMost, kFieldMost);
}

// The window of one query along three axes, in positions.
struct Window {
  Interval x, y, z;
};

// Bounds of a window inside a key tile, packed.
struct PackedWindow {
  unsigned first;
  unsigned last;

  CUPYNA_HOST_DEVICE PackedWindow(const Window& window, const Coordinate& origin)
      : first(
            pack_fields(low(window.x, origin.x), low(window.y, origin.y), low(window.z, origin.z))),
        last(last_fields(high(window.x, origin.x), high(window.y, origin.y),
                         high(window.z, origin.z))) {}

  CUPYNA_HOST_DEVICE bool contains(unsigned column) const {
    return (((column | kGuards) - first) & (last - column) & kGuards) == kGuards;
  }

 private:
  // A window that ends before the tile begins after everything in it.
  static CUPYNA_HOST_DEVICE int low(const Interval& along, int origin) {
    if (along.end <= origin) return kFieldMost;
    return min_of(max_of(along.begin - origin, 0), kFieldMost);
  }
  static CUPYNA_HOST_DEVICE int high(const Interval& along, int origin) {
    return max_of(along.end - 1 - origin, 0);
  }
};

}  // namespace cupyna
