// Where the rows lie that a warp moves between memory and shared memory.
//
// A row's place takes some forty instructions, and groups of lanes move several rows one after
// another: so each lane finds the place of one row, and all ask for it in its turn. Copies are then
// a few instructions each and wait for nothing but each other.
#pragma once

#include "../../common/attention_params.cuh"
#include "../../geometry/tile.cuh"
#include "../../ptx/arithmetic.cuh"
#include "../../ptx/shared_memory.cuh"

namespace cupyna {

// Of a tile's rows, 16 bytes of kChunks to a lane: those that one of kWarps moves, by which of
// `kWarps` it is and the first row of all.
template <typename Tile, int kChunks, int kWarps>
struct RowPlaces {
  static constexpr int kLanes = kChunks < 32 ? kChunks : 32;  // of a warp, that move a row
  static constexpr int kTogether = 32 / kLanes;               // rows that a warp moves at once
  static constexpr int kStep = 32 * kWarps / kChunks;         // rows from one turn to the next
  static_assert(32 * kWarps % kChunks == 0, "a lane moves the same chunk of every row");

  const int first, row;  // of the warp in its first turn; the lane's own row
  Coordinate at;         // position of the lane's own row
  unsigned real;         // a bit for each lane's row: whether it stands for a token

  __device__ __forceinline__ RowPlaces(const Tile& tile, int warp, int first_row = 0)
      : first(first_row + warp * 32 / kChunks),
        row(first + lane() / kTogether * kStep + lane() % kTogether) {
    bool is_real;
    at = tile.position_of(row, is_real);
    real = __ballot_sync(0xffffffffu, is_real);
  }

  // In backward registers are too short to keep it through the walk.
  static __device__ __forceinline__ int lane() {
    return Tile::kIsBackward ? ptx::lane_id() : threadIdx.x % 32;
  }

  // The lane whose row it moves in a turn.
  static __device__ __forceinline__ int source(int turn) {
    return turn * kTogether + lane() / kLanes;
  }

  __device__ __forceinline__ int row_in(int turn) const {
    return first + turn * kStep + lane() / kLanes;
  }
  __device__ __forceinline__ bool is_real_in(int turn) const { return real >> source(turn) & 1; }

  // What the lane found for its own row, for the one that it moves in a turn.
  template <typename Value>
  static __device__ __forceinline__ Value in(Value own, int turn) {
    return __shfl_sync(0xffffffffu, own, source(turn));
  }
};

// All rows of a tile, into shared memory: a share of them to each warp.
template <typename Tile, typename T>
__device__ __forceinline__ void copy_rows(const Tile& tile, T* target, const Array& array,
                                          int channels) {
  const RowPlaces<Tile, Tile::kChunks, Tile::kThreads / 32> places(tile, threadIdx.x / 32);
  const long long own_offset = tile.row_offset(array, places.at, tile.head);
  const int chunk = threadIdx.x % Tile::kChunks;
  const int bytes = chunk * Tile::kPerChunk < channels ? 16 : 0;
  const T* from = static_cast<const T*>(array.data) + (bytes > 0 ? chunk * Tile::kPerChunk : 0);
#pragma unroll
  for (int turn = 0; turn < Tile::kRows * Tile::kChunks / Tile::kThreads; ++turn) {
    ptx::copy_async_16(Tile::address(target, places.row_in(turn), chunk),
                       from + places.in(own_offset, turn), bytes);
  }
}

// A warp's share of its rows of shared memory, out to an array.
template <typename Tile, typename T>
__device__ __forceinline__ void write_rows(const Tile& tile, const Array& array, const T* source,
                                           int warp, int channels, int share) {
  constexpr int kChunks = Tile::kChunks, kShares = Tile::kWarpsOfRows;
  using Places = RowPlaces<Tile, kChunks, kShares>;
  const Places places(tile, share, warp * Tile::kWarpRows);
  const long long own_offset = tile.row_offset(array, places.at, tile.head);
  const int chunk = (kShares == 1 ? threadIdx.x % 32 : share * 32 + Places::lane()) % kChunks;
  const bool has_chunk = chunk * Tile::kPerChunk < channels;
  T* target = static_cast<T*>(array.data) + chunk * Tile::kPerChunk;
#pragma unroll
  for (int turn = 0; turn < Tile::kWarpRows * kChunks / (32 * kShares); ++turn) {
    T* to = target + places.in(own_offset, turn);
    if (has_chunk && places.is_real_in(turn)) {
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(
          reinterpret_cast<const char*>(source) + Tile::Rows::offset(places.row_in(turn), chunk));
    }
  }
}

}  // namespace cupyna
