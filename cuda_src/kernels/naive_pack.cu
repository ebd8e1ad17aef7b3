// Weights or their gradients as callers lay them out, `[batch, *spatial, heads, slots]` -> blocks.
#include "../mainloop/naive/slots.cuh"

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, cupyna::kMoverBlocks<CUPYNA_DTYPE>)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::Params params) {
  const cupyna::NaiveSlots<CUPYNA_DTYPE> slots(params);
  for (int pair = blockIdx.y; pair < params.batch * params.heads; pair += gridDim.y) {
    slots.pack(pair / params.heads, pair % params.heads);
  }
}
