// Rows of channels -> rows that hold more or fewer of them: what wants whole vectors gets them.
#include "../common/copy_params.cuh"
#include "../common/numeric.cuh"

// A thread moves an element, whatever it stands for; neighbors of a row are neighbors in a warp.
extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::CopyParams params) {
  const long long element = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const long long token = element / params.target_channels;
  const int channel = static_cast<int>(element % params.target_channels);
  const int y_length = params.length[1], z_length = params.length[2];
  const int x = static_cast<int>(token / (static_cast<long long>(y_length) * z_length));
  const int y = static_cast<int>(token / z_length % y_length);
  const int z = static_cast<int>(token % z_length);
  if (x >= params.length[0]) return;
  const int head = blockIdx.y, batch = blockIdx.z;
  CUPYNA_DTYPE moved = cupyna::narrow<CUPYNA_DTYPE>(0);
  if (channel < params.source_channels) {
    moved =
        params.source.at<const CUPYNA_DTYPE>(batch, x, y, z, head)[channel * params.source.channel];
  }
  params.target.at<CUPYNA_DTYPE>(batch, x, y, z, head)[channel * params.target.channel] = moved;
}
