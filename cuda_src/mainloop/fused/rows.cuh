// What a lone pass over keys needs of every query: its statistics before, and its sums of gradients
// as numbers of the element type after. A group of lanes takes a row, 8 channels to a lane.
#pragma once

#include "../../common/attention_params.cuh"
#include "../../common/numeric.cuh"
#include "../../common/pack.cuh"
#include "query_sums.cuh"

namespace cupyna {

template <typename T>
struct alignas(16) Eight {
  T channels[8];
};

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

  __device__ __forceinline__ int sums_length() const {
    return QuerySums::row_length(params.sum_order, params.head_dim);
  }

  __device__ __forceinline__ float* sums() const {
    return params.query_sums + index() * sums_length();
  }

  // Statistics of the query, and sums of zero where they are wanted.
  __device__ __forceinline__ void begin() const {
    float delta = 0;
    if (is_real && channel < params.value_dim) {
      const auto out = *reinterpret_cast<const Eight<T>*>(in<T>(params.out) + channel);
      const auto dout = *reinterpret_cast<const Eight<T>*>(in<T>(params.dout) + channel);
#pragma unroll
      for (int i = 0; i < 8; ++i) delta += widen(out.channels[i]) * widen(dout.channels[i]);
    }
    for (int step = params.row_lanes / 2; step > 0; step /= 2) {
      delta += __shfl_xor_sync(0xffffffffu, delta, step);
    }
    if (!is_real) return;
    if (channel == 0) {
      if (params.dlse.data != nullptr) delta -= *in<float>(params.dlse);
      params.statistics[index()] = Statistics{*in<float>(params.lse) * kLog2E, delta};
    }
    if (params.query_sums == nullptr) return;
    for (int i = channel; i < sums_length(); i += 8 * params.row_lanes) {
      *reinterpret_cast<Eight<float>*>(sums() + i) = Eight<float>{};
    }
  }

  // Sums times the scale, rounded.
  __device__ __forceinline__ void end() const {
    if (!is_real || channel >= params.head_dim) return;
    const SumOrder order = params.sum_order;
    const int turn = order == SumOrder::kTurned ? sum_turn(params.head_dim, y, z) : 0;
    Eight<T> rounded;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const int place = order == SumOrder::kByThread ? QuerySums::place_of(channel + i)
                                                     : (channel / 8 ^ turn) * 8 + i;
      const float2 two = *reinterpret_cast<const float2*>(sums() + place);
      rounded.channels[i] = narrow<T>(two.x * params.scale);
      rounded.channels[i + 1] = narrow<T>(two.y * params.scale);
    }
    *reinterpret_cast<Eight<T>*>(in<T>(params.dq) + channel) = rounded;
  }
};

}  // namespace cupyna
