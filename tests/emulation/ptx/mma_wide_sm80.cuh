// What cuda_src/ptx/mma_wide_sm80.cuh does, on a CPU.
#pragma once

#include "mma_sm80.cuh"

namespace cupyna::ptx {

inline void mma_m16n8k8(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  mma_m16n8k8_tf32(d, a, b0, b1);
}

inline void mma_m8n8k4(double& d0, double& d1, double a, double b) {
  struct Lane {
    double *d0, *d1, a, b;
  } mine{&d0, &d1, a, b};
  emulation::in_warp(mine, [](Lane** lanes) {
    for (int i = 0; i < emulation::kWarp; ++i) {
      for (int j = 0; j < 2; ++j) {
        double& sum = j == 0 ? *lanes[i]->d0 : *lanes[i]->d1;
        for (int k = 0; k < 4; ++k)
          sum += lanes[i / 4 * 4 + k]->a * lanes[(i % 4 * 2 + j) * 4 + k]->b;
      }
    }
  });
}

}  // namespace cupyna::ptx
