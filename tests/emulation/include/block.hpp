// One block of threads on a CPU: every thread is a fiber that runs until it meets others.
//
// Where threads have to meet (a barrier, a shuffle, a matrix product of a warp) the last one to
// arrive does the work for all. Shared memory is one array, poisoned before each block.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __CUDACC__
#define __CUDA_ARCH__ 800
#define __device__
#define __host__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes)

struct dim3 {
  unsigned x, y, z;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr int kWarp = 32;
constexpr std::size_t kMostShared = 232448;
extern unsigned char memory[kMostShared];

// Bytes on their way to shared memory; they arrive when their group is waited for.
struct Copy {
  unsigned target;
  const void* source;
  int bytes, size;
};

struct Fiber {
  ucontext_t context;
  bool has_ended;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
  std::vector<char> stack;
};

// Threads that meet, and what each brings.
struct Meeting {
  int arrived = 0;
  long count = 0;
  void* brought[1024];
};

extern std::vector<Fiber> fibers;
extern int current;
extern std::size_t shared_bytes;
extern long progress;  // meetings that were held, and threads that ended
extern Meeting of_block, of_warp[32];

void let_others_run();
// Ends the launch with a reason.
[[noreturn]] void fail(const char* reason);

template <typename Work>
void meet(Meeting& meeting, int size, int place, void* mine, Work work) {
  meeting.brought[place] = mine;
  const long now = meeting.count;
  if (++meeting.arrived == size) {
    meeting.arrived = 0;
    work(meeting.brought);
    ++meeting.count;
    ++progress;
  } else {
    while (meeting.count == now) let_others_run();
  }
}

// `work(a)` on the array of what the warp's 32 lanes brought.
template <typename Brought, typename Work>
void in_warp(Brought& mine, Work work) {
  meet(of_warp[current / kWarp], kWarp, current % kWarp, &mine, [&](void** brought) {
    Brought* lanes[kWarp];
    for (int i = 0; i < kWarp; ++i) lanes[i] = static_cast<Brought*>(brought[i]);
    work(lanes);
  });
}

template <typename T, typename Both>
T reduce(T value, Both both) {
  struct Lane {
    T value, result;
  } mine{value, value};
  in_warp(mine, [&](Lane** lanes) {
    T all = lanes[0]->value;
    for (int i = 1; i < kWarp; ++i) all = both(all, lanes[i]->value);
    for (int i = 0; i < kWarp; ++i) lanes[i]->result = all;
  });
  return mine.result;
}

inline unsigned char* in_shared(unsigned address, std::size_t bytes) {
  const int distance = static_cast<int>(address);
  const bool is_static = distance < 0 || distance >= static_cast<int>(kMostShared);
  if (!is_static && distance + bytes > shared_bytes) fail("an access past the shared memory");
  return memory + distance;
}

}  // namespace emulation

inline void __syncthreads() {
  emulation::meet(emulation::of_block, static_cast<int>(emulation::fibers.size()),
                  emulation::current, nullptr, [](void**) {});
}
inline void __syncwarp() {
  int nothing = 0;
  emulation::in_warp(nothing, [](int**) {});
}
// Of each lane the value of the lane that `from` names.
template <typename T, typename From>
T shuffle(T value, From from) {
  struct Lane {
    T value, result;
    int from;
  } mine{value, value, from(emulation::current % emulation::kWarp)};
  emulation::in_warp(mine, [](Lane** lanes) {
    for (int i = 0; i < emulation::kWarp; ++i) lanes[i]->result = lanes[lanes[i]->from]->value;
  });
  return mine.result;
}
template <typename T>
T __shfl_sync(unsigned, T value, int source, int width = emulation::kWarp) {
  return shuffle(value, [&](int lane) { return lane / width * width + source % width; });
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask, int = emulation::kWarp) {
  return shuffle(value, [&](int lane) { return lane ^ mask; });
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int step, int = emulation::kWarp) {
  return shuffle(value, [&](int lane) { return lane < step ? lane : lane - step; });
}
inline unsigned __ballot_sync(unsigned, bool value) {
  const unsigned bit = value ? 1u << emulation::current % emulation::kWarp : 0u;
  return emulation::reduce(bit, [](unsigned a, unsigned b) { return a | b; });
}
inline bool __any_sync(unsigned, bool value) {
  return emulation::reduce<int>(value, [](int a, int b) { return a | b; });
}
inline bool __all_sync(unsigned mask, bool value) { return !__any_sync(mask, !value); }
inline int __reduce_min_sync(unsigned, int value) {
  return emulation::reduce(value, [](int a, int b) { return std::min(a, b); });
}
inline unsigned __reduce_and_sync(unsigned, unsigned value) {
  return emulation::reduce(value, [](unsigned a, unsigned b) { return a & b; });
}
inline int __reduce_max_sync(unsigned, int value) {
  return emulation::reduce(value, [](int a, int b) { return std::max(a, b); });
}

using std::max;
using std::min;

template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}
template <typename T>
void __stcs(T* pointer, T value) {
  *pointer = value;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }

template <typename To, typename From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline float __int_as_float(int x) { return same_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return same_bits<float>(x); }
inline unsigned __float_as_uint(float x) { return same_bits<unsigned>(x); }
