// Quads of weights on their way to shared memory, one chunk ahead of the one in use.
#pragma once

#include "../common/blocks.cuh"
#include "../ptx/shared_memory.cuh"

namespace cupyna {

// Two buffers of kQuads quads for each group of lanes. One quad more between groups, so that groups
// that read the same quad of their buffers meet in no bank.
template <typename Number, int kQuads>
struct QuadBuffers {
  Quad<Number> quads[2 * kQuads + 1];

  __device__ __forceinline__ Quad<Number>* buffer(int turn) { return quads + turn % 2 * kQuads; }
};

// Starts to copy one quad, or to write zeros in its place.
template <typename Number>
__device__ __forceinline__ void copy_quad(Quad<Number>* target, const Quad<Number>* source,
                                          bool exists) {
#pragma unroll
  for (int i = 0; i < int(sizeof(Quad<Number>)); i += 16) {
    ptx::copy_async_16(ptx::shared_address(target) + i, reinterpret_cast<const char*>(source) + i,
                       exists ? 16 : 0);
  }
}

// Waits for all chunks but the latest, and for the other lanes.
__device__ __forceinline__ void wait_for_chunk() {
  ptx::copy_async_wait<1>();
  __syncwarp();
}

}  // namespace cupyna
