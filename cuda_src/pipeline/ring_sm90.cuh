// A ring of stages between the copy engine and warpgroups: full when its bytes have come, empty
// when all readers have let it go.
#pragma once

#include "../ptx/mbarrier_sm90.cuh"
#include "../ptx/shared_memory.cuh"

namespace cupyna {

__device__ __forceinline__ void await(const unsigned long long& barrier, unsigned parity) {
  const unsigned address = ptx::shared_address(&barrier);
  while (!ptx::mbarrier_try_wait(address, parity)) {
  }
}

struct Gate {
  unsigned long long full, empty;

  __device__ __forceinline__ void init(int readers) {
    ptx::mbarrier_init(ptx::shared_address(&full), 1);
    ptx::mbarrier_init(ptx::shared_address(&empty), readers);
  }
  __device__ __forceinline__ void await_full(unsigned phase) { await(full, phase); }
  // The first time round nothing has to be let go.
  __device__ __forceinline__ void await_empty(unsigned phase) { await(empty, phase ^ 1); }
  __device__ __forceinline__ void release() { ptx::mbarrier_arrive(ptx::shared_address(&empty)); }
  // Announces the bytes of the copies that follow; returns the barrier that they arrive at.
  __device__ __forceinline__ unsigned expect(unsigned bytes) {
    const unsigned barrier = ptx::shared_address(&full);
    ptx::mbarrier_arrive_expect(barrier, bytes);
    return barrier;
  }
};

// A place in the ring, after `count` of them. The phase flips each time round.
template <int kStages>
struct Cursor {
  int stage = 0;
  unsigned phase = 0;

  Cursor() = default;
  __device__ __forceinline__ explicit Cursor(unsigned count)
      : stage(count % kStages), phase(count / kStages % 2) {}

  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

}  // namespace cupyna
