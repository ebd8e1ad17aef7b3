// The one argument of every naive kernel; cupyna/kernels/params.py holds its mirror.
#pragma once

namespace cupyna {

// Grids of fewer axes have leading axes of length one, so one kernel serves them all.
constexpr int kAxes = 3;

// An array [batch, x, y, z, head, channel]; strides in elements. Absent where data is null.
struct Array {
  void* data;
  long long batch;
  long long axis[kAxes];
  long long head;
  long long channel;

  template <typename T>
  __device__ __forceinline__ T* at(int b, int x, int y, int z, int h) const {
    return static_cast<T*>(data) + b * batch + x * axis[0] + y * axis[1] + z * axis[2] + h * head;
  }
};

struct AxisParams {
  int length;
  int kernel_size;
  int stride;
  int dilation;
  int is_causal;
};

struct Params {
  Array query;   // rows of queries: q, dO; or where O or dQ goes
  Array key;     // rows of keys: k, v; or where dK or dV goes
  Array output;  // O, for the row sums of dO * O
  Array slots;   // weights as the caller lays them out; the channel is the slot
  Array lse;     // one channel
  Array dlse;
  Array bias;      // [head, 2 w0 - 1, 2 w1 - 1, 2 w2 - 1], or its gradient
  void* weights;   // blocks of scores or weights
  void* gradient;  // blocks of their gradient, where a kernel needs both
  double scale;
  double empty;  // what stands in a block where a query does not see a key
  AxisParams axis[kAxes];
  int batch;
  int heads;
  int head_group;  // query heads that share one key head
  int channels;    // of query and key
  int lanes;       // threads that share one run of tokens: a power of two
  int runs;        // runs along one dilation group of the last axis
  int blocks;      // of channels, where one group of lanes cannot hold a row
  int items;       // runs of one head of one batch entry
  int keys;        // of the largest box of a run along the last axis
};

}  // namespace cupyna
