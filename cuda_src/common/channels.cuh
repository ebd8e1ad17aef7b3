// A lane's share of a row of channels.
//
// The lanes of a group hold a row together: piece i of lane l is the vector i * lanes + l, so that
// one load of a group is contiguous. Vectors are 16 bytes, or one element where an array's layout
// does not allow that.
#pragma once

#include "numeric.cuh"
#include "params.cuh"

namespace cupyna {

// Channels of one lane.
constexpr int kLaneChannels = 8;

template <typename T, bool kIsVector>
struct Channels {
  static constexpr int kVector = kIsVector ? 16 / int(sizeof(T)) : 1;
  static constexpr int kPieces = kLaneChannels / kVector;

  long long first;  // offset of the lane's first channel from a token's
  long long step;   // between pieces
  long long stride;
  unsigned pieces;  // bit i is set where piece i exists

  __device__ Channels(const Array& array, int count, int lanes, int lane, int block)
      : stride(kIsVector ? 1 : array.channel) {
    const int channel = block * lanes * kLaneChannels + lane * kVector;
    first = channel * stride;
    step = lanes * kVector * stride;
    pieces = 0;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (channel + i * lanes * kVector < count) pieces |= 1u << i;
    }
  }

  // `row` points at the lane's first channel of a token. Channels that do not exist are zero.
  __device__ __forceinline__ void load(const T* row, Wide<T> (&values)[kLaneChannels]) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const T* source = row + i * step;
      if constexpr (kIsVector) {
        uint4 bits = make_uint4(0, 0, 0, 0);
        if (pieces >> i & 1) bits = __ldg(reinterpret_cast<const uint4*>(source));
        unpack(bits, &values[i * kVector]);
      } else {
        values[i] = pieces >> i & 1 ? widen(__ldg(source)) : Wide<T>(0);
      }
    }
  }

  __device__ __forceinline__ void store(T* row, const Wide<T> (&values)[kLaneChannels],
                                        Wide<T> factor) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      if (!(pieces >> i & 1)) continue;
      T* target = row + i * step;
      alignas(16) T narrowed[kVector];
#pragma unroll
      for (int e = 0; e < kVector; ++e) narrowed[e] = narrow<T>(values[i * kVector + e] * factor);
      if constexpr (kIsVector) {
        *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(narrowed);
      } else {
        *target = narrowed[0];
      }
    }
  }

 private:
  static __device__ __forceinline__ void unpack(const uint4& bits, Wide<T>* values) {
    const T* elements = reinterpret_cast<const T*>(&bits);
#pragma unroll
    for (int e = 0; e < kVector; ++e) values[e] = widen(elements[e]);
  }
};

}  // namespace cupyna
