// Softmax of the rows of a run, in place. A lane takes whole quads: four rows at a time.
#pragma once

#include "../common/blocks.cuh"
#include "../common/numeric.cuh"
#include "../common/warp.cuh"

namespace cupyna {

// Quads that a lane keeps in registers; of larger blocks it reads every quad three times.
constexpr int kKeptQuads = 8;

template <typename Number>
struct Softmax {
  Number largest[kRun];
  Number sums[kRun];
  Number factors[kRun];

  // The first `count` rows of the run exist; the others become zero.
  __device__ void run(Quad<Number>* block, int quads, int count, const Lanes& lanes) {
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      largest[t] = block[0].query[t];
      sums[t] = 0;
    }
    if (quads <= kKeptQuads * lanes.count) {
      small_block(block, quads, count, lanes);
    } else {
      large_block(block, quads, count, lanes);
    }
  }

 private:
  __device__ void small_block(Quad<Number>* block, int quads, int count, const Lanes& lanes) {
    Quad<Number> kept[kKeptQuads];
#pragma unroll
    for (int i = 0; i < kKeptQuads; ++i) {
      const int quad = i * lanes.count + lanes.index;
      // The first quad in place of one that is not there changes no maximum, and is not added.
      kept[i] = block[quad < quads ? quad : 0];
    }
#pragma unroll
    for (int i = 0; i < kKeptQuads; ++i) take_largest(kept[i]);
    share_largest(lanes);
#pragma unroll
    for (int i = 0; i < kKeptQuads; ++i) {
      if (i * lanes.count + lanes.index < quads) exponentiate(kept[i]);
    }
    share_sums(lanes);
#pragma unroll
    for (int i = 0; i < kKeptQuads; ++i) {
      const int quad = i * lanes.count + lanes.index;
      if (quad < quads) block[quad] = normalized(kept[i], count);
    }
  }

  __device__ void large_block(Quad<Number>* block, int quads, int count, const Lanes& lanes) {
#pragma unroll 4
    for (int quad = lanes.index; quad < quads; quad += lanes.count) take_largest(block[quad]);
    share_largest(lanes);
#pragma unroll 2
    for (int quad = lanes.index; quad < quads; quad += lanes.count) {
      Quad<Number> read = block[quad];
      exponentiate(read);
    }
    share_sums(lanes);
#pragma unroll 2
    for (int quad = lanes.index; quad < quads; quad += lanes.count) {
      Quad<Number> read = block[quad];
#pragma unroll
      for (int t = 0; t < kRun; ++t) read.query[t] = exponential(read.query[t] - largest[t]);
      block[quad] = normalized(read, count);
    }
  }

  __device__ __forceinline__ void take_largest(const Quad<Number>& quad) {
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      largest[t] = quad.query[t] > largest[t] ? quad.query[t] : largest[t];
    }
  }

  __device__ __forceinline__ void exponentiate(Quad<Number>& quad) {
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      quad.query[t] = exponential(quad.query[t] - largest[t]);
      sums[t] += quad.query[t];
    }
  }

  __device__ __forceinline__ void share_largest(const Lanes& lanes) {
    for (int mask = 1; mask < lanes.count; mask <<= 1) {
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
        const Number other = __shfl_xor_sync(kAllLanes, largest[t], mask);
        largest[t] = other > largest[t] ? other : largest[t];
      }
    }
  }

  __device__ __forceinline__ void share_sums(const Lanes& lanes) {
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      sums[t] = lanes.sum(sums[t]);
      factors[t] = 1 / sums[t];
    }
  }

  __device__ __forceinline__ Quad<Number> normalized(const Quad<Number>& quad, int count) const {
    Quad<Number> weights;
#pragma unroll
    for (int t = 0; t < kRun; ++t) {
      weights.query[t] = t < count ? quad.query[t] * factors[t] : Number(0);
    }
    return weights;
  }
};

}  // namespace cupyna
