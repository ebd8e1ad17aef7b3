// What cuda_src/ptx/reduction.cuh does, on a CPU: fibers never interrupt each other.
#pragma once

namespace cupyna::ptx {

inline void add_pair(float* target, float first, float second) {
  target[0] += first;
  target[1] += second;
}

}  // namespace cupyna::ptx
