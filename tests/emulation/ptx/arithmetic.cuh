// What cuda_src/ptx/arithmetic.cuh does, on a CPU.
#pragma once

#include <block.hpp>

namespace cupyna::ptx {

inline float exp2_approx(float x) { return std::exp2(x); }
inline float log2_approx(float x) { return std::log2(x); }
inline float reciprocal_approx(float x) { return 1.f / x; }
inline unsigned lane_id() { return threadIdx.x % emulation::kWarp; }
inline const char* moved(const char* from, int count, int step_bytes) {
  return from + static_cast<long long>(count) * step_bytes;
}
inline void prefetch(const void*) {}
inline unsigned computed_here(unsigned x) { return x; }

}  // namespace cupyna::ptx
