// Which pairs of an edge tile are wanted. A mask is a product of one interval test for each axis.
#pragma once

#include "host_device.cuh"
#include "window.cuh"

namespace cupyna {

// The keys [begin, end) that one query sees along one axis.
struct Interval {
  int begin, end;

  CUPYNA_HOST_DEVICE bool contains(int position) const {
    return begin <= position && position < end;
  }

  // Bit i is set where first + i is inside, for i < 32: one test for a run of columns.
  CUPYNA_HOST_DEVICE unsigned bits_from(int first) const {
    const int low = max_of(begin - first, 0);
    const int high = min_of(end - first, 32);
    if (low >= high) return 0u;
    return (0xffffffffu >> (32 - (high - low))) << low;
  }
};

CUPYNA_HOST_DEVICE Interval window_of(const Line& line, int query) {
  return Interval{line.window_begin(query), line.window_end(query)};
}

CUPYNA_HOST_DEVICE Interval queries_of(const Line& line, int key) {
  return Interval{line.query_begin(key), line.query_end(key)};
}

}  // namespace cupyna
