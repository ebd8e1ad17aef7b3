// How a block goes through its works, and each warp through its warp tiles.
//
//   per work: box of columns -> shared memory; tables of the next work meanwhile; one barrier
//     per warp tile: rows -> fragments, the next tile's rows are under way
#pragma once

#include "copies_sm80.cuh"

namespace cupyna {

template <typename T, int kHeadDim, int kSlots, Side kSide, int kRowArrays, int kStages>
struct WindowWalkSm80 : WindowCopiesSm80<T, kHeadDim, kSlots, kSide, kRowArrays, kStages> {
  using Copies = WindowCopiesSm80<T, kHeadDim, kSlots, kSide, kRowArrays, kStages>;
  using Tile = typename Copies::Tile;
  using Copies::Copies;
  using Tile::warp, Tile::warps, Tile::window;
  using typename Tile::Work;

  // Calls `attend(work, tile, side, rows, go_on)` for every warp tile. With one stage of rows, it
  // calls `go_on` when it has read them.
  template <typename Attend>
  __device__ __forceinline__ void run(Attend attend) const {
    Tile::lay_slots();
    Tile::lay_rows();
    Tile::lay_lines();
    Tile::place(blockIdx.x, 0);
    Tile::place(blockIdx.x + gridDim.x, 1);
    __syncthreads();
    Tile::lay_masks();
    Tile::lay_tables(Tile::fixed().works[0], 0);
    __syncthreads();
    int turn = 0, side = 0;
    for (unsigned work = blockIdx.x; work < window.works; work += gridDim.x, side ^= 1) {
      const int next = turn == 2 ? 0 : turn + 1, after = next == 2 ? 0 : next + 1;
      const Work& current = Tile::fixed().works[turn];
      Copies::copy_box(current);
      Copies::copy_rows(side, warp, 0);
      // Copies take their time: what the next works need is laid meanwhile.
      if (work + gridDim.x < window.works) {
        Tile::lay_tables(Tile::fixed().works[next], side ^ 1);
      }
      Tile::place(work + 2 * gridDim.x, after);
      ptx::copy_async_wait<0>();
      __syncthreads();
      const int tiles = Tile::warp_tiles();
#pragma unroll 1
      for (int index = warp, stage = 0; index < tiles; index += warps, stage ^= kStages - 1) {
        ptx::copy_async_wait<0>();
        __syncwarp();
        const auto go_on = [&] {
          __syncwarp();
          Copies::copy_rows(side, index + warps, stage ^ (kStages - 1));
        };
        if constexpr (kStages == 2) go_on();
        attend(current, Tile::tiles(side)[index], side, Tile::rows(stage), go_on);
      }
      __syncthreads();  // all are done with the box
      turn = next;
    }
  }
};

}  // namespace cupyna
