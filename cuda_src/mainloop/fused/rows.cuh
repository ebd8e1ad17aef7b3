// What a lone pass over keys needs of every query: its statistics before, and its sums of gradients
// as numbers of the element type after. A group of lanes takes a row, 8 channels to a lane.
#pragma once

#include "../../common/attention_params.cuh"
#include "../../common/numeric.cuh"
#include "../../common/pack.cuh"

namespace cupyna {

template <typename T>
struct FusedRow {
  const GradientParams& params;
  const int head, batch;
  long long token;
  int x, y, z, channel;
  bool is_real;

  __device__ __forceinline__ explicit FusedRow(const GradientParams& params)
      : params(params), head(blockIdx.y), batch(blockIdx.z) {
    const AxisParams(&axis)[kAxes] = params.axis;
    token = static_cast<long long>(blockIdx.x) * (blockDim.x / params.row_lanes) +
            threadIdx.x / params.row_lanes;
    channel = threadIdx.x % params.row_lanes * 8;
    is_real = token < tokens();
    const int plane = axis[1].length * axis[2].length;
    x = static_cast<int>(token / plane);
    y = static_cast<int>(token % plane) / axis[2].length;
    z = static_cast<int>(token % plane) % axis[2].length;
  }

  __device__ __forceinline__ long long tokens() const {
    return static_cast<long long>(params.axis[0].length) * params.axis[1].length *
           params.axis[2].length;
  }

  // Where the lane's channels of the row lie in an array.
  template <typename Element>
  __device__ __forceinline__ Element* in(const Array& array) const {
    return array.at<Element>(batch, x, y, z, head);
  }

  // Place of the query in [batch, heads, tokens].
  __device__ __forceinline__ long long index() const {
    return (static_cast<long long>(batch) * gridDim.y + head) * tokens() + token;
  }

  __device__ __forceinline__ float* sums() const {
    return params.query_sums + index() * params.head_dim + channel;
  }

  // Statistics of the query, and sums of zero where they are wanted.
  __device__ __forceinline__ void begin() const {
    float delta = 0;
    if (is_real && channel < params.value_dim) {
      const uint4 out = *reinterpret_cast<const uint4*>(in<T>(params.out) + channel);
      const uint4 dout = *reinterpret_cast<const uint4*>(in<T>(params.dout) + channel);
      const T* a = reinterpret_cast<const T*>(&out);
      const T* b = reinterpret_cast<const T*>(&dout);
#pragma unroll
      for (int i = 0; i < 8; ++i) delta += widen(a[i]) * widen(b[i]);
    }
    for (int step = params.row_lanes / 2; step > 0; step /= 2) {
      delta += __shfl_xor_sync(0xffffffffu, delta, step);
    }
    if (!is_real) return;
    if (channel == 0) {
      if (params.dlse.data != nullptr) delta -= *in<float>(params.dlse);
      params.statistics[index()] = Statistics{*in<float>(params.lse) * kLog2E, delta};
    }
    if (params.query_sums != nullptr && channel < params.head_dim) {
      const float4 zero = make_float4(0, 0, 0, 0);
      reinterpret_cast<float4*>(sums())[0] = zero;
      reinterpret_cast<float4*>(sums())[1] = zero;
    }
  }

  // Sums times the scale, rounded.
  __device__ __forceinline__ void end() const {
    if (!is_real || channel >= params.head_dim) return;
    const int turn = params.has_turned_sums ? sum_turn(params.head_dim, y, z) : 0;
    const float4* found =
        reinterpret_cast<const float4*>(sums() - channel + (channel / 8 ^ turn) * 8);
    const float4 low = found[0];
    const float4 high = found[1];
    const float scale = params.scale;
    *reinterpret_cast<uint4*>(in<T>(params.dq) + channel) = make_uint4(
        pack<T>(low.x * scale, low.y * scale), pack<T>(low.z * scale, low.w * scale),
        pack<T>(high.x * scale, high.y * scale), pack<T>(high.z * scale, high.w * scale));
  }
};

}  // namespace cupyna
