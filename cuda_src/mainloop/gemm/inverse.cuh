// Weights^T x query box: gradients of keys and values.
//
// A tile of keys walks the box of the queries that see them. Fragments of the transposed weights
// are fetched element by element: neighboring keys are neighboring slots of a query, so a lane's
// neighbors read the same sectors. All query heads of a key head are summed here, nothing is added
// from elsewhere, and every run gives the same bits.
#pragma once

#include "slot_tile.cuh"
#include "store.cuh"

namespace cupyna {

template <typename T, int kChannels>
struct GemmInverse : GemmSlotTile<T> {
  using Tile = GemmSlotTile<T>;
  using Number = Wide<T>;
  using Tile::params, Tile::shared, Tile::warp, Tile::lane, Tile::head;
  using typename Tile::Shared;
  static constexpr int kTiles = kChannels / 8;

  // Bytes to the slot of key 0, if its window held that, of each column's query.
  using Offsets = long long[Tile::kWarps][Tile::kChunk];

  Offsets& offsets;
  char* const slabs;
  int first_channel, channels, pitch, query_head;
  Number sums[kTiles][4];

  __device__ GemmInverse(const GemmParams& given, Shared& shared, Offsets& offsets, char* memory)
      : Tile(given, shared, Side::kKey), offsets(offsets), slabs(memory) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::for_planes(params.heads / params.head_group, [&] { compute_plane(); });
  }

  __device__ __forceinline__ void compute_plane() {
    clear(sums);
    first_channel = shared.block * kChannels;
    channels = min_of(params.channels - first_channel, kChannels);
    pitch = Tile::pitch_of(params.channels > kChannels / 2 ? kChannels : kChannels / 2);
    for (int i = 0; i < params.head_group; ++i) {
      query_head = head * params.head_group + i;
      Tile::walk(*this);
      __syncthreads();  // all warps are done with the slabs of this head
    }
    if (Tile::has_rows) store();
  }

  __device__ __forceinline__ void copy(const Window& slab, int of_stage) const {
    Tile::copy_slab(slab_of(of_stage), slab, params.query, query_head, first_channel, channels,
                    pitch, params.is_vector(kQueryArray));
  }

  __device__ __forceinline__ void prepare(const Part&) const {}

  __device__ __forceinline__ void take(const Part& part, const Window& slab, int of_stage, int) {
    const int columns = part.columns();
    const Keys keys[2] = {keys_of(0, part.origin), keys_of(1, part.origin)};
    for (int first = 0; first < columns; first += Tile::kChunk) {
      Tile::lay_columns(part, slab, first);
      lay_offsets(part, first);
      const int past = min_of(columns - first, Tile::kChunk);
      with_tiles<kTiles>((min_of(params.channels, kChannels) + 7) / 8, [&](auto tiles) {
        // The next block is on its way while this one is multiplied.
        FragmentBlock<T> next = gather(keys, 0);
#pragma unroll 1
        for (int group = 0; group < past; group += 16) {
          const FragmentBlock<T> gathered = next;
          if (group + 16 < past) next = gather(keys, group + 16);
          GemmProducts<T>::template multiply_block<decltype(tiles)::kCount>(
              sums, gathered, slab_of(of_stage), pitch, shared.rows[warp] + group,
              Float32Way::of(params.is_precise));
        }
      });
    }
  }

 private:
  // A key of a lane: the queries that see it, and the slot of query 0 that would hold it.
  struct Keys {
    GuardedWindow window;
    const char* weights;
  };

  __device__ __forceinline__ Keys keys_of(int half, const Coordinate& origin) const {
    bool is_real;
    const Coordinate at = Tile::position_of(Tile::row_of(half), is_real);
    const long long slot = Tile::slots().index(at.x, at.y, at.z);
    return Keys{GuardedWindow(shared.windows[Tile::row_of(half)], origin),
                static_cast<const char*>(params.weights.data) +
                    slot * params.weights.channel * int(sizeof(T))};
  }

  __device__ __forceinline__ FragmentBlock<T> gather(const Keys (&keys)[2], int group) const {
    FragmentBlock<T> gathered;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = group + i / 2 * 8 + lane % 4 * 2 + i % 2;
      const unsigned fields = shared.fields[warp][column];
      const long long offset = offsets[warp][column];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const T* const at = reinterpret_cast<const T*>(keys[half].weights + offset);
        gathered.at(half, i) =
            keys[half].window.contains(fields) ? __ldg(at) : narrow<T>(Number(0));
      }
    }
    return gathered;
  }

  __device__ __forceinline__ char* slab_of(int of_stage) const {
    return slabs + of_stage * params.slab_rows * pitch;
  }

  __device__ __forceinline__ void lay_offsets(const Part& part, int first) {
#pragma unroll
    for (int i = lane; i < Tile::kChunk; i += 32) {
      if (first + i - lane >= part.columns()) break;
      const Coordinate in = part.at(min_of(first + i, part.columns() - 1));
      const Coordinate query{part.origin.x + in.x, part.origin.y + in.y, part.origin.z + in.z};
      const int begin = Tile::slots().index(shared.line[0].window_begin(query.x),
                                            shared.line[1].window_begin(query.y),
                                            shared.line[2].window_begin(query.z));
      offsets[warp][i] =
          (Tile::offset_of(params.weights, query, query_head) - begin * params.weights.channel) *
          int(sizeof(T));
    }
    __syncwarp();
  }

  __device__ __forceinline__ void store() const {
    const bool is_vector = params.is_vector(kKeyArray);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate at = Tile::position_of(Tile::row_of(half), is_real);
      if (!is_real) continue;
      T* const row = static_cast<T*>(params.key.data) + Tile::offset_of(params.key, at, head) +
                     first_channel * params.key.channel;
      store_row<T, kSharingTiles<T>>(row, sums, half, channels, params.key.channel, is_vector,
                                     Number(params.scale));
    }
  }
};

}  // namespace cupyna
