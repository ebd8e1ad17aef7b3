// A tile whose weights wait between two kernels as fragments of tensor core products, with zeros
// outside of windows: nothing is selected or scattered.
//
// A block keeps its tile for many planes: a head of a batch entry each. What depends on geometry
// alone is laid down once: tokens of the rows, where rows of a slab are and slabs of the box, and
// which rows of a warp see a position. The slab after the one at hand is on its way, across planes,
// too.
#pragma once

#include "dense_copies.cuh"
#include "fragments.cuh"

namespace cupyna {

template <typename T>
struct GemmDenseTile : GemmDenseCopies<T> {
  using Base = GemmDenseCopies<T>;
  using Base::Base;
  using Base::box_corner, Base::kChunk, Base::kColumns, Base::kRows, Base::kSlabs, Base::kWarpRows;
  using Base::kWarps, Base::laid, Base::lane, Base::origin, Base::params, Base::shared, Base::warp;
  using typename Base::Pass;
  using typename Base::Place;
  using typename Base::Share;
  using typename Base::Slab;
  using typename Base::Token;

  __device__ __forceinline__ void place() {
    Base::place_block();
    const Coordinate origin = Base::origin_of_warp();
    Base::has_rows = origin.x < shared.own[0].end && origin.y < shared.own[1].end &&
                     origin.z < shared.own[2].end;
    if (lane < kAxes && Base::has_rows) Base::place_warp(lane, Base::along(origin, lane));
    if (threadIdx.x < kRows) {
      bool is_real;
      const Coordinate at = Base::position_of(threadIdx.x, is_real);
      shared.tokens[threadIdx.x] =
          Token{Base::token(0, at.x), Base::token(1, at.y), Base::token(2, at.z), is_real};
    }
    __syncthreads();
    if (Base::has_rows) Base::lay_positions();
    lay_slabs();
  }

  // Groups of 16 columns of a chunk that begins with column `first`.
  static __device__ __forceinline__ int groups_of(int columns, int first) {
    return min_of(columns - first + 15, kChunk) / 16;
  }

  // The fragments of a pass.
  __device__ __forceinline__ char* fragments_of(const Array& array, const Pass& pass) const {
    return static_cast<char*>(array.data) + warp_of(pass) * params.groups * kBlockBytes<T>;
  }
  __device__ __forceinline__ Wide<T>* maxima_of(const Pass& pass) const {
    return static_cast<Wide<T>*>(params.maxima) + warp_of(pass) * (params.chunks + 1) * kWarpRows;
  }

  __device__ __forceinline__ Place place_of(const Slab& slab) const {
    return slab.index < kSlabs ? shared.places[slab.index] : place_at(slab.at);
  }

  // Columns of this warp in a slab; none of a warp without rows.
  __device__ __forceinline__ Share share_of(const Slab& slab) const {
    if (slab.index < kSlabs) return Share::of(shared.shares[warp][slab.index]);
    return Share{columns_at(slab.at), Share::kIsNotKept};
  }

  // Walks the boxes of all planes of this block, `heads` heads and `group` passes each. `product`
  // copies its own rows and slabs ahead, takes a warp's part of a slab that is there, and ends a
  // plane after its last pass.
  template <typename Product>
  __device__ __forceinline__ void walk(Product& product, int heads, int group) {
    Pass next{static_cast<int>(blockIdx.y) / heads, static_cast<int>(blockIdx.y) % heads, 0};
    next.query_head = next.head * group;
    Slab next_slab{box_corner(), 0};
    ask(product, next, next_slab, 0, 0, false);
    int stage = 0, own_stage = 0;
    while (next.batch < params.batch) {
      const Pass pass = next;
      const bool is_first = pass.query_head == pass.head * group;
      const bool is_last = pass.query_head + 1 == (pass.head + 1) * group;
      if (is_last) {
        for (next.head += gridDim.y; next.head >= heads; next.head -= heads) ++next.batch;
        next.query_head = next.head * group;
      } else {
        ++next.query_head;
      }
      product.begin(pass, is_first, own_stage);
      const int next_own = params.stages > 1 ? own_stage ^ 1 : 0;
      bool is_inside = true;
      while (is_inside) {
        ptx::copy_async_wait<0>();
        __syncthreads();  // this slab has arrived, and all warps are done with the other stage
        const Slab here = next_slab;
        is_inside = Base::advance(next_slab.at);
        next_slab.index = is_inside ? next_slab.index + 1 : 0;
        Pass asked = next;
        if (is_inside) asked = pass;
        const bool has_next = asked.batch < params.batch;
        const int next_stage = params.stages > 1 ? stage ^ 1 : 0;
        const bool ends = is_last && !is_inside;
        // The only stage is free when all warps are done with it.
        if (params.stages > 1 && has_next)
          ask(product, asked, next_slab, next_stage, next_own, is_inside);
        take(product, pass, here, stage, ends);
        if (params.stages == 1) {
          __syncthreads();
          if (has_next) ask(product, asked, next_slab, 0, 0, is_inside);
        }
        stage = next_stage;
      }
      own_stage = next_own;
    }
  }

 private:
  __device__ __forceinline__ long long warp_of(const Pass& pass) const {
    const long long tiles =
        1ll * params.tile[0].tiles * params.tile[1].tiles * params.tile[2].tiles;
    return ((1ll * pass.batch * params.heads + pass.query_head) * tiles + shared.tile) * kWarps +
           warp;
  }

  template <typename Product>
  __device__ __forceinline__ void ask(Product& product, const Pass& pass, const Slab& slab,
                                      int stage, int own_stage, bool is_inside) const {
    if (!is_inside) product.copy_own(pass, own_stage);
    product.copy(pass, slab, stage);
    ptx::copy_async_commit();
  }

  template <typename Product>
  __device__ __forceinline__ void take(Product& product, const Pass& pass, const Slab& slab,
                                       int stage, bool ends) {
    if (!Base::has_rows) return;
    const Share share = share_of(slab);
    const bool is_kept = share.kept_run != Share::kIsNotKept;
    origin = is_kept ? share.kept_run * 32 : 0;
    if (!is_kept) laid = 0;
    if (share.columns > 0) product.take(share.columns, slab.at, stage);
    if (ends) product.end(pass);
  }

  __device__ __forceinline__ int columns_at(const Coordinate& at) const {
    return Base::has_rows ? Part(Base::part_of(Base::slab_at(at))).columns() : 0;
  }

  __device__ __forceinline__ Place place_at(const Coordinate& at) const {
    const Coordinate corner = box_corner();
    return Place{(at.x - corner.x) * params.axis[0].dilation,
                 (at.y - corner.y) * params.axis[1].dilation,
                 (at.z - corner.z) * params.axis[2].dilation, Part(Base::slab_at(at)).columns()};
  }

  // A lane for each slab. Tables keep the columns of all slabs where they have room.
  __device__ __forceinline__ void lay_slabs() const {
    Slab slab{box_corner(), 0};
    bool is_there = lane < kSlabs;
    while (slab.index < lane && is_there) {
      is_there = Base::advance(slab.at);
      ++slab.index;
    }
    const int columns = is_there ? columns_at(slab.at) : 0;
    const int padded = (columns + kChunk - 1) / kChunk * kChunk;
    int past = padded;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, past, step);
      if (lane >= step) past += before;
    }
    if (warp == 0 && is_there) shared.places[lane] = place_at(slab.at);
    const bool are_more = lane == kSlabs - 1 && is_there && Base::advance(slab.at);
    const bool keeps = !__any_sync(0xffffffffu, are_more || past > kColumns);
    const Share share{columns, keeps ? (past - padded) / 32 : Share::kIsNotKept};
    if (lane < kSlabs) shared.shares[warp][lane] = share.word();
  }
};

}  // namespace cupyna
