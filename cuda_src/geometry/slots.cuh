// Window slots of a run of columns.
//
// The columns of a box are numbered in the order of its axes, and so are the slots of a window. A
// run of columns therefore meets an interval of a query's slots, and the next run the interval
// after it.
#pragma once

#include "box.cuh"

namespace cupyna {

// Division of small numbers by a product.
struct SmallDivisor {
  static constexpr int kMost = 1023;  // of dividends and divisors

  int divisor;
  unsigned factor;

  CUPYNA_HOST_DEVICE explicit SmallDivisor(int by)
      : divisor(by), factor(((1u << 20) + by - 1) / static_cast<unsigned>(by)) {}

  CUPYNA_HOST_DEVICE int quotient(int n) const {
    return static_cast<int>(static_cast<unsigned>(n) * factor >> 20);
  }
};

// A box of positions whose columns are numbered, the last axis fastest.
struct Part {
  Coordinate origin;
  int x_extent;
  SmallDivisor y_extent, z_extent;

  CUPYNA_HOST_DEVICE Part(const Window& box)
      : origin{box.x.begin, box.y.begin, box.z.begin},
        x_extent(max_of(box.x.end - box.x.begin, 0)),
        y_extent(max_of(box.y.end - box.y.begin, 1)),
        z_extent(max_of(box.z.end - box.z.begin, 1)) {
    if (box.y.end <= box.y.begin || box.z.end <= box.z.begin) x_extent = 0;
  }

  CUPYNA_HOST_DEVICE int columns() const { return x_extent * y_extent.divisor * z_extent.divisor; }

  // Coordinates of a column inside the part.
  CUPYNA_HOST_DEVICE Coordinate at(int column) const {
    const int line = z_extent.quotient(column);
    const int x = y_extent.quotient(line);
    return Coordinate{x, line - x * y_extent.divisor, column - line * z_extent.divisor};
  }
};

// Columns and bounds of windows with guard bits set, so that a test is two subtractions.
struct GuardedWindow {
  unsigned first, last;

  CUPYNA_HOST_DEVICE GuardedWindow(const Window& window, const Coordinate& origin) {
    const PackedWindow packed(window, origin);
    first = packed.first;
    last = packed.last + kGuards;
  }

  // `column` comes from guarded().
  CUPYNA_HOST_DEVICE bool contains(unsigned column) const {
    return ((column - first) & (last - column) & kGuards) == kGuards;
  }

  static CUPYNA_HOST_DEVICE unsigned guarded(unsigned fields) { return fields | kGuards; }
};

// The slots of windows: their extents, in the order of the axes.
struct Slots {
  int x, y, z;

  CUPYNA_HOST_DEVICE int count() const { return x * y * z; }

  CUPYNA_HOST_DEVICE int index(int at_x, int at_y, int at_z) const {
    return (at_x * y + at_y) * z + at_z;
  }

  // Slot of a position in a window; negative or beyond where the window does not hold it.
  CUPYNA_HOST_DEVICE int of(const Window& window, const Coordinate& at) const {
    return index(at.x - window.x.begin, at.y - window.y.begin, at.z - window.z.begin);
  }

  // The first slot with a key that does not come before a position; count() if there is none.
  CUPYNA_HOST_DEVICE int first_from(const Window& window, const Coordinate& at) const {
    if (at.x < window.x.begin) return 0;
    if (at.x >= window.x.end) return count();
    const int in_x = at.x - window.x.begin;
    int in_y = max_of(at.y - window.y.begin, 0);
    int in_z = at.y < window.y.begin ? 0 : max_of(at.z - window.z.begin, 0);
    if (at.y < window.y.end && in_z >= window.z.end - window.z.begin) {
      in_z = 0;
      ++in_y;
    }
    if (in_y < window.y.end - window.y.begin) return index(in_x, in_y, in_z);
    return at.x + 1 < window.x.end ? index(in_x + 1, 0, 0) : count();
  }
};

}  // namespace cupyna
