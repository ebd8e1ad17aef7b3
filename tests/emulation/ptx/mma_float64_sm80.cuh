// What cuda_src/ptx/mma_float64_sm80.cuh does, on a CPU.
#pragma once

#include <block.hpp>

namespace cupyna::ptx {

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
