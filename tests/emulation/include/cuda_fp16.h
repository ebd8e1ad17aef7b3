// float16 numbers and pairs of them, by the host's own.
#pragma once

#include "block.hpp"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};
inline float __half2float(__half x) { return same_bits<_Float16>(x.bits); }
inline __half __float2half_rn(float x) { return {same_bits<uint16_t>(static_cast<_Float16>(x))}; }
inline __half2 __floats2half2_rn(float x, float y) {
  return {__float2half_rn(x), __float2half_rn(y)};
}
