// Softmax of one row, in place.
#pragma once

#include "naive_row.cuh"

namespace cupyna {

template <typename Number>
struct Softmax {
  Number largest, sum;

  __device__ void run(Number* scores, const Row& row, const Lanes& lanes) {
    Quad<Number>* quads = as_quads(scores);
    largest = scores[0];
    if (row.quads() <= kQuads * lanes.count) {
      short_row(quads, row, lanes);
    } else {
      long_row(quads, row, lanes);
    }
  }

 private:
  // A row that fits in the registers of its lanes: one read, one write.
  __device__ void short_row(Quad<Number>* quads, const Row& row, const Lanes& lanes) {
    Quad<Number> kept[kQuads];
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int quad = i * lanes.count + lanes.index;
      if (quad < row.quads()) kept[i] = quads[quad];
    }
#pragma unroll
    for (int i = 0; i < kQuads; ++i) take_largest(kept[i], i * lanes.count + lanes.index, row);
    largest = group_max(largest, lanes);
    sum = 0;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) exponentiate(kept[i], i * lanes.count + lanes.index, row);
    sum = lanes.sum(sum);
    const Number factor = 1 / sum;
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int quad = i * lanes.count + lanes.index;
#pragma unroll
      for (int e = 0; e < 4; ++e) kept[i].slot[e] *= factor;
      if (row.is_active && quad < row.quads()) quads[quad] = kept[i];
    }
  }

  // Read three times; all but the first come from the cache.
  __device__ void long_row(Quad<Number>* quads, const Row& row, const Lanes& lanes) {
#pragma unroll 4
    for (int quad = lanes.index; quad < row.quads(); quad += lanes.count) {
      take_largest(quads[quad], quad, row);
    }
    largest = group_max(largest, lanes);
    sum = 0;
#pragma unroll 4
    for (int quad = lanes.index; quad < row.quads(); quad += lanes.count) {
      Quad<Number> read = quads[quad];
      exponentiate(read, quad, row);
    }
    const Number total = lanes.sum(sum);
    const Number factor = 1 / total;
    if (row.is_active) {
#pragma unroll 2
      for (int quad = lanes.index; quad < row.quads(); quad += lanes.count) {
        Quad<Number> read = quads[quad];
        exponentiate(read, quad, row);
#pragma unroll
        for (int e = 0; e < 4; ++e) read.slot[e] *= factor;
        quads[quad] = read;
      }
    }
    sum = total;
  }

  __device__ __forceinline__ void take_largest(const Quad<Number>& read, int quad, const Row& row) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (quad * 4 + e < row.slots && read.slot[e] > largest) largest = read.slot[e];
    }
  }

  __device__ __forceinline__ void exponentiate(Quad<Number>& read, int quad, const Row& row) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      read.slot[e] = quad * 4 + e < row.slots ? exponential(read.slot[e] - largest) : Number(0);
      sum += read.slot[e];
    }
  }
};

}  // namespace cupyna
