// What the geometry needs to compile for a device and, in tests, for a host.
#pragma once

#ifdef __CUDACC__
#define CUPYNA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CUPYNA_HOST_DEVICE inline
#endif

namespace cupyna {

CUPYNA_HOST_DEVICE int min_of(int a, int b) { return a < b ? a : b; }
CUPYNA_HOST_DEVICE int max_of(int a, int b) { return a > b ? a : b; }

}  // namespace cupyna
