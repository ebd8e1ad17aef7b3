// Entry point of the fused forward on Hopper.
#include "../mainloop/fused/forward_sm90.cuh"

using Forward = cupyna::FusedForwardSm90<CUPYNA_DTYPE, CUPYNA_HEAD_DIM, CUPYNA_KEYS,
                                         CUPYNA_CONSUMERS, CUPYNA_STAGES>;
static_assert(Forward::kThreads == CUPYNA_THREADS, "the manifest knows the threads");
static_assert(sizeof(Forward::Shared) <= CUPYNA_SMEM_BYTES, "the manifest knows the size");

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, 1)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::HopperParams params) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Forward{params, *reinterpret_cast<Forward::Shared*>(memory)}.run();
}
