// Keys and values of small windows on Hopper: slices of a box stream through a ring in shared
// memory, brought by the copy engine, while warps go through tiles of queries behind them.
//
//   a work: a tile of queries of one head, long along the first axis
//   a slice: the keys and values of the tile's box at one position of the first axis
//
//   producer:  slices of one work after the other, some to a stage, when all warps left the stage
//   consumers: warp tiles, dealt out in turn; a warp lets stages go that its next tile does not see
//
// A token's row lies under the swizzle of its length, which depends on the token's place alone.
#pragma once

#include "../../common/swizzle.cuh"
#include "../../common/window_ring_params.cuh"
#include "../../geometry/box.cuh"
#include "../../pipeline/ring_sm90.cuh"
#include "../../ptx/tma_sm90.cuh"

namespace cupyna {

constexpr int kMostStages = 64;
constexpr int kMostLines = 80;

struct RingWork {
  AxisTile own[kAxes];
  Line line[kAxes];
  int head, batch;  // of the keys
  unsigned index;
  // Of a warp's tiles: along the last two axes, steps along the first, and in each the tiles of all
  // heads that share keys.
  int along_y, along_z, steps, of_step;
  float per_y, per_z;  // 1 / along_y, 1 / along_z
  // What the warp is at, here because registers are short: its tile, and of the tile's box the
  // first slice and the lines; and the first stage that the warp's next tile needs.
  int step, in_step, begin, lines, keep;
  unsigned long long full;  // lines that all rows of the tile see

  // Stages that it fills.
  __device__ __forceinline__ int stages(int slices_log2) const {
    return (own[0].box_end - own[0].box_begin + (1 << slices_log2) - 1) >> slices_log2;
  }
};

template <int kHeadDim, int kConsumers>
struct WindowRingSm90 {
  static constexpr int kRowBytes = kHeadDim * 2;
  using Place = Swizzle<kRowBytes>;

  // Elements from the first row of a warp's tile to one of its sixteen.
  struct alignas(16) Row {
    long long query, out;
  };

  struct Fixed {
    Gate gates[kMostStages];
    Row rows[16];
    unsigned lines[kMostLines];      // slice << 16 | tokens inside it
    RingWork works[kConsumers + 1];  // each warp's own
    // Where the lines of a warp's box begin, in bytes of the ring.
    unsigned begins[kConsumers][kMostLines];
  };
  static constexpr int kFixedBytes = 10240;
  static_assert(sizeof(Fixed) <= kFixedBytes, "the host knows the size");

  const WindowRingParams& params;
  unsigned char* const memory;
  const int warp, lane;

  __device__ WindowRingSm90(const WindowRingParams& params, unsigned char* memory)
      : params(params), memory(memory), warp(threadIdx.x / 32), lane(threadIdx.x % 32) {}

  __device__ __forceinline__ Fixed& fixed() const { return *reinterpret_cast<Fixed*>(memory); }
  __device__ __forceinline__ int slice_tokens() const {
    return params.tile[1].box * params.tile[2].box;
  }
  __device__ __forceinline__ unsigned keys() const {
    return ptx::shared_address(memory) + kFixedBytes;
  }
  // The swizzle repeats after 1024 bytes.
  __device__ __forceinline__ unsigned values() const {
    return keys() + ((params.stages << params.slices_log2) * slice_tokens() * kRowBytes + 1023) /
                        1024 * 1024;
  }

  __device__ __forceinline__ void set_up() const {
    for (int i = threadIdx.x; i < params.stages; i += blockDim.x) {
      fixed().gates[i].init(kConsumers);
    }
    const int along_y = params.tile[1].lines;
    for (int i = threadIdx.x; i < params.line_entries; i += blockDim.x) {
      const int x = i / along_y;
      fixed().lines[i] = x << 16 | (i - x * along_y) * params.tile[2].box;
    }
    if (threadIdx.x < 16) {
      const Coordinate at = row_at(threadIdx.x);
      fixed().rows[threadIdx.x] = Row{step(params.q, at), step(params.out, at)};
    }
    ptx::fence_mbarrier_init();
    __syncthreads();
  }

  __device__ __forceinline__ int log2_of(int axis) const {
    return params.tile[axis].warp_extent_log2;
  }

  // Coordinates of one of the sixteen rows of a tile.
  __device__ __forceinline__ Coordinate row_at(int row) const {
    const int log2_y = log2_of(1), log2_z = log2_of(2);
    return {row >> (log2_y + log2_z), row >> log2_z & ((1 << log2_y) - 1),
            row & ((1 << log2_z) - 1)};
  }

  __device__ __forceinline__ long long step(const Array& array, const Coordinate& at) const {
    return at.x * params.axis[0].dilation * array.axis[0] +
           at.y * params.axis[1].dilation * array.axis[1] +
           at.z * params.axis[2].dilation * array.axis[2];
  }

  // A lane for each axis finds out which tile a work is, for its warp.
  __device__ __forceinline__ RingWork& place(unsigned index) const {
    RingWork& work = fixed().works[warp];
    __syncwarp();
    if (lane <= kAxes) {
      unsigned rest = index / params.kv_heads;
      if (lane == kAxes) {
        work.index = index;
        work.head = index - rest * params.kv_heads;
      }
      for (int axis = kAxes - 1; axis > lane; --axis) rest /= params.tile[axis].row_tiles;
      if (lane == kAxes) {
        for (int axis = kAxes - 1; axis >= 0; --axis) rest /= params.tile[axis].row_tiles;
        work.batch = rest;
      } else {
        const AxisParams& axis = params.axis[lane];
        const AxisTiling tiling{axis.length,   axis.kernel_size,    axis.stride,
                                axis.dilation, axis.is_causal != 0, params.tile[lane].row_extent};
        work.own[lane] =
            tiling.tile(static_cast<int>(rest % params.tile[lane].row_tiles), Side::kQuery);
        work.line[lane] = tiling.line(work.own[lane].group);
      }
    }
    __syncwarp();
    return work;
  }

  __device__ __forceinline__ int token(const RingWork& work, int axis, int position) const {
    return work.own[axis].group + position * params.axis[axis].dilation;
  }

  // One warp.
  __device__ __forceinline__ void produce() const {
    int stage = 0;
    unsigned phase = 0;
    const unsigned stage_bytes = (slice_tokens() << params.slices_log2) * kRowBytes;
#pragma unroll 1
    for (unsigned index = blockIdx.x; index < params.works; index += gridDim.x) {
      const RingWork& work = place(index);
      if (lane != 0) continue;
      const int y = token(work, 1, work.own[1].box_begin);
      const int z = token(work, 2, work.own[2].box_begin);
#pragma unroll 1
      for (int x = work.own[0].box_begin; x < work.own[0].box_end; x += 1 << params.slices_log2) {
        Gate& gate = fixed().gates[stage];
        gate.await_empty(phase);
        const unsigned barrier = gate.expect(2 * stage_bytes);
        const Coordinate at{token(work, 0, x), y, z};
        load(keys() + stage * stage_bytes, params.k_map, params.k_head_stride, barrier, work, at);
        load(values() + stage * stage_bytes, params.v_map, params.v_head_stride, barrier, work, at);
        if (++stage == params.stages) {
          stage = 0;
          phase ^= 1;
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void load(unsigned target, const TensorMap& map, int head_stride,
                                       unsigned barrier, const RingWork& work,
                                       const Coordinate& at) const {
    const BoxOrder order = static_cast<BoxOrder>(params.box_order);
    if (order == BoxOrder::kHeadsFolded) {
      ptx::load_box_5d(target, &map, barrier, work.head * head_stride, at.z, at.y, at.x,
                       work.batch);
    } else if (order == BoxOrder::kAxisOutermost) {
      ptx::load_box_5d(target, &map, barrier, 0, work.head, at.z, at.y, at.x);
    } else {  // a grid of two axes
      ptx::load_box_5d(target, &map, barrier, 0, work.head, at.z, at.x, work.batch);
    }
  }
};

// Where one warp is in the ring. It lets go of every stage, in order, whether it reads it or not.
template <typename Fixed>
struct RingReader {
  Fixed& fixed;
  const int stages, lane;
  int awaited = 0, released = 0;  // stages of the work
  int awaited_place = 0, released_place = 0;
  unsigned phase = 0;

  __device__ __forceinline__ void await_to(int count) {
    while (awaited < count) {
      fixed.gates[awaited_place].await_full(phase);
      ++awaited;
      if (++awaited_place == stages) {
        awaited_place = 0;
        phase ^= 1;
      }
    }
  }

  // A stage that was not full yet may not have been let go by all for the last time.
  __device__ __forceinline__ void release_to(int count) {
    if (released >= count) return;
    __syncwarp();
    while (released < count) {
      await_to(released + 1);
      if (lane == 0) fixed.gates[released_place].release();
      ++released;
      if (++released_place == stages) released_place = 0;
    }
  }

  __device__ __forceinline__ void end_work(int count) {
    release_to(count);
    awaited = released = 0;
  }
};

}  // namespace cupyna
