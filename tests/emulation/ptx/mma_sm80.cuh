// What cuda_src/ptx/mma_sm80.cuh does, on a CPU; sums are rounded where float32 rounds.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace cupyna::ptx {

struct Product {
  float* d;
  const unsigned* a;
  unsigned b[2];
};

// d[16, 8] += a[16, kDepth] b[kDepth, 8], with factors spread over the lanes by `of_lane`.
template <int kDepth, typename OfLane>
void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, OfLane of_lane) {
  Product mine{d, a, {b0, b1}};
  emulation::in_warp(mine, [&](Product** lanes) {
    float left[16][kDepth], right[kDepth][8];
    for (int i = 0; i < emulation::kWarp; ++i) of_lane(*lanes[i], i / 4, i % 4, left, right);
    for (int i = 0; i < emulation::kWarp; ++i) {
      for (int j = 0; j < 4; ++j) {
        float sum = lanes[i]->d[j];
        for (int k = 0; k < kDepth; ++k) {
          sum += left[i / 4 + j / 2 * 8][k] * right[k][i % 4 * 2 + j % 2];
        }
        lanes[i]->d[j] = sum;
      }
    }
  });
}

inline float widened(uint16_t bits, const __half*) { return __half2float({bits}); }
inline float widened(uint16_t bits, const __nv_bfloat16*) { return __bfloat162float({bits}); }

template <typename T>
void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  multiply<16>(d, a, b0, b1, [](const Product& lane, int row, int column, auto& left, auto& right) {
    const T* type = nullptr;
    for (int e = 0; e < 2; ++e) {
      for (int i = 0; i < 4; ++i) {
        left[row + i % 2 * 8][column * 2 + e + i / 2 * 8] =
            widened(lane.a[i] >> 16 * e & 0xffff, type);
      }
      for (int i = 0; i < 2; ++i) {
        right[column * 2 + e + i * 8][row] = widened(lane.b[i] >> 16 * e & 0xffff, type);
      }
    }
  });
}

template <typename T>
void mma_m16n8k16_onto(float (&d)[4], const float (&c)[4], const unsigned (&a)[4], unsigned b0,
                       unsigned b1) {
  for (int i = 0; i < 4; ++i) d[i] = c[i];
  mma_m16n8k16<T>(d, a, b0, b1);
}

// Of a number the product reads what TF32 holds.
inline float cut_to_tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000u); }

inline void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  multiply<8>(d, a, b0, b1, [](const Product& lane, int row, int column, auto& left, auto& right) {
    for (int i = 0; i < 4; ++i) {
      left[row + i % 2 * 8][column + i / 2 * 4] = cut_to_tf32(lane.a[i]);
    }
    for (int i = 0; i < 2; ++i) right[column + i * 4][row] = cut_to_tf32(lane.b[i]);
  });
}

inline unsigned to_tf32(float x) {
  const unsigned bits = __float_as_uint(x);
  return std::isfinite(x) ? (bits + 0x1000u) & 0xffffe000u : bits;
}

}  // namespace cupyna::ptx
