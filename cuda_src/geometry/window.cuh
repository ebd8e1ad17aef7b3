// Which keys a query sees, and which queries see a key, along one axis.
//
// The twin of cupyna/geometry.py: integers only, and it also compiles with a host compiler, so that
// a machine without a GPU proves the two equal. A Line is one dilation group of an axis; token
// group + position * dilation of the axis is `position` of the line.
#pragma once

#include "host_device.cuh"

namespace cupyna {

struct Line {
  int length;
  int kernel_size;
  int stride;
  bool is_causal;

  CUPYNA_HOST_DEVICE int left() const { return kernel_size / 2; }

  // First key that the query at `position` sees.
  CUPYNA_HOST_DEVICE int window_begin(int position) const {
    // A branch that all threads take costs less than a division.
    const int first_of_stride = stride == 1 ? position : position / stride * stride;
    if (is_causal) {
      const int leader = min_of(first_of_stride + stride - 1, length - 1);
      return max_of(leader - kernel_size + 1, 0);
    }
    const int leader = min_of(first_of_stride + stride / 2, length - 1);
    return min_of(max_of(leader - left(), 0), length - kernel_size);
  }

  // One past the last key that the query at `position` sees.
  CUPYNA_HOST_DEVICE int window_end(int position) const {
    return is_causal ? min_of(position + 1, length) : window_begin(position) + kernel_size;
  }

  // First query that sees `key`. The queries that see a key are an interval.
  CUPYNA_HOST_DEVICE int query_begin(int key) const {
    if (is_causal) return key;
    return key < kernel_size ? 0 : first_window_past(key - kernel_size);
  }

  // One past the last query that sees `key`.
  CUPYNA_HOST_DEVICE int query_end(int key) const {
    if (is_causal) {
      if (key + kernel_size >= length) return length;
      return min_of((key + kernel_size) / stride * stride, length);
    }
    return key >= length - kernel_size ? length : first_window_past(key);
  }

 private:
  // First query whose unclipped window begins after `key`; windows are not causal.
  CUPYNA_HOST_DEVICE int first_window_past(int key) const {
    const int beyond = key + left() + 1 - stride / 2;
    return min_of((beyond + stride - 1) / stride * stride, length);
  }
};

// Tokens of the axis in dilation group `group`.
CUPYNA_HOST_DEVICE int group_length(int length, int dilation, int group) {
  return dilation == 1 ? length : (length - group + dilation - 1) / dilation;
}

}  // namespace cupyna
