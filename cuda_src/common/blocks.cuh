// Weights in memory, in blocks of one run of queries each.
//
// A block is [slot along x][slot along y][key of the run's box along z][query of the run]: what a
// group of lanes needs of one key is one quad, and all that it needs lies together. Queries of a
// run see different parts of the box; quads hold zero, or minus infinity while they are scores,
// where a query does not see the key.
#pragma once

#include "params.cuh"

namespace cupyna {

// Queries of a run.
constexpr int kRun = 4;

template <typename Number>
struct alignas(16) Quad {
  Number query[kRun];
};

__device__ __forceinline__ int quads_of_block(const Params& params) {
  return params.axis[0].kernel_size * params.axis[1].kernel_size * params.keys;
}

// The block of a run, for one head of one batch entry.
template <typename Number>
__device__ __forceinline__ Quad<Number>* block_of(const Params& params, void* blocks, int batch,
                                                  int head, int run) {
  const long long index = (long long)(batch * params.heads + head) * params.items + run;
  return static_cast<Quad<Number>*>(blocks) + index * quads_of_block(params);
}

}  // namespace cupyna
