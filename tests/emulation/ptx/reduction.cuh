// What cuda_src/ptx/reduction.cuh does, on a CPU: fibers never interrupt each other.
#pragma once

namespace cupyna::ptx {

inline void add_one(float* target, float x) { *target += x; }

inline void add_four(float* target, const float4& x) {
  target[0] += x.x;
  target[1] += x.y;
  target[2] += x.z;
  target[3] += x.w;
}

}  // namespace cupyna::ptx
