// What cuda_src/ptx/mbarrier_sm90.cuh does, on a CPU.
#pragma once

#include <block.hpp>

namespace cupyna::ptx {

struct Barrier {
  int16_t arrivals, missing;
  int bytes : 31;
  unsigned phase : 1;

  void complete() {
    if (missing != 0 || bytes != 0) return;
    phase ^= 1;
    missing = arrivals;
    ++emulation::progress;
  }
};
static_assert(sizeof(Barrier) == 8, "as large as the GPU's");

inline Barrier& barrier_at(unsigned address) {
  if (address % 8 != 0) emulation::fail("a barrier that is not aligned");
  return *reinterpret_cast<Barrier*>(emulation::in_shared(address, sizeof(Barrier)));
}

inline void mbarrier_init(unsigned barrier, unsigned arrivals) {
  barrier_at(barrier) = Barrier{int16_t(arrivals), int16_t(arrivals), 0, 0};
}
inline void fence_mbarrier_init() {}

inline void mbarrier_arrive(unsigned barrier) {
  Barrier& at = barrier_at(barrier);
  if (--at.missing < 0) emulation::fail("more arrivals than a barrier waits for");
  at.complete();
}
inline void mbarrier_arrive_expect(unsigned barrier, unsigned bytes) {
  barrier_at(barrier).bytes += bytes;
  mbarrier_arrive(barrier);
}
inline void complete_bytes(unsigned barrier, int bytes) {
  Barrier& at = barrier_at(barrier);
  at.bytes -= bytes;
  at.complete();
}
inline bool mbarrier_try_wait(unsigned barrier, unsigned parity) {
  if (barrier_at(barrier).phase != parity) return true;
  emulation::let_others_run();
  return false;
}

}  // namespace cupyna::ptx
