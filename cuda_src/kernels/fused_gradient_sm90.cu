// Entry point of the fused backward on Hopper: one pass over queries, or over keys.
#include "../mainloop/fused/gradient_sm90.cuh"

using Gradient =
    cupyna::FusedGradientSm90<CUPYNA_DTYPE, static_cast<cupyna::Side>(CUPYNA_ROWS_ARE_KEYS),
                              CUPYNA_HEAD_DIM, CUPYNA_COLUMNS, CUPYNA_STAGES, CUPYNA_ROW_BUFFERS,
                              CUPYNA_SUMS_QUERIES != 0>;
static_assert(Gradient::kThreads == CUPYNA_THREADS, "the manifest knows the threads");
static_assert(sizeof(Gradient::Shared) <= CUPYNA_SMEM_BYTES, "the manifest knows the size");

extern "C" __global__ void __launch_bounds__(CUPYNA_THREADS, 1)
    CUPYNA_SYMBOL(const __grid_constant__ cupyna::HopperGradientParams params) {
  extern __shared__ __align__(1024) unsigned char memory[];
  Gradient{params, *reinterpret_cast<Gradient::Shared*>(memory)}.run();
}
