// What a copy of rows is told, by value; cupyna/kernels/copies.py mirrors it.
#pragma once

#include "params.cuh"

namespace cupyna {

// Rows of the same tokens and heads in two arrays. Channels that only the target has become zero.
struct CopyParams {
  Array source, target;
  int length[kAxes];
  int source_channels;
  int target_channels;
};

}  // namespace cupyna
