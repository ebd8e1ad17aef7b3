// Fragments of weights x box: outputs and gradients of queries, or of keys and values.
//
//   fragments, a chunk ahead -> registers; slabs of V -> shared memory
//   O = P V, 16 rows x kChannels channels of a warp
//
// Tiles hold rows of outputs and cut either side, as those of the kernel that left the fragments
// did. A key head meets all of its query heads here: nothing is added from elsewhere, and every run
// gives the same bits.
#pragma once

#include "dense_tile.cuh"
#include "exponential.cuh"
#include "store.cuh"

namespace cupyna {

template <typename T, int kChannels>
struct GemmValues : GemmDenseTile<T> {
  using Tile = GemmDenseTile<T>;
  using Tile::params, Tile::shared, Tile::warp, Tile::lane, Tile::head;
  using typename Tile::Shared;
  using Number = Wide<T>;
  static constexpr int kTiles = kChannels / 8;
  static constexpr int kGroups = Tile::kGroups;
  static constexpr int kChunkBytes = kGroups * 32 * int(sizeof(FragmentBlock<T>));

  char* const slabs;
  int of_head;
  const char* source;  // fragments of the chunk at hand
  const Number* maxima;
  // Groups that are on their way; wide sums leave room for fewer.
  static constexpr int kAhead = kTiles > 8 ? kGroups / 2 : kGroups;
  FragmentBlock<T> next[kAhead];
  Number largest[2];
  Number sums[kTiles][4];

  __device__ GemmValues(const GemmParams& given, Shared& shared, char* memory)
      : Tile(given, shared, given.is_transposed ? Side::kKey : Side::kQuery), slabs(memory) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    const int group = params.is_transposed ? params.head_group : 1;
    Tile::for_planes(params.heads / group, [&] { compute_plane(group); });
  }

  __device__ __forceinline__ void compute_plane(int group) {
    clear(sums);
    for (int i = 0; i < group; ++i) {
      const int query_head = head * group + i;
      of_head = params.is_transposed ? query_head : head / params.head_group;
      source = Tile::fragments_of(params.weights, query_head);
      maxima = Tile::maxima_of(query_head);
      largest[0] = largest[1] = -Number(infinity());
      has_next = false;
      Tile::walk(*this);
      if (i + 1 < group) __syncthreads();  // all warps are done with the slabs of this head
    }
    if (Tile::has_rows) store();
  }

  __device__ __forceinline__ void copy(const Window& slab, int of_stage) const {
    Tile::copy_slab(slab_of(of_stage), slab, params.key, of_head, first_channel(), channels(),
                    pitch(), params.is_vector(kKeyArray));
  }

  __device__ __forceinline__ void prepare(const Part& part) {
    if (has_next) return;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) ask(next[i], source, i, part.columns());
  }

  __device__ __forceinline__ void take(const Part& part, const Window& slab, int of_stage,
                                       int next_columns) {
    const int columns = part.columns();
    Tile::begin_part();
    for (int first = 0; first < columns; first += Tile::kChunk) {
      const int at = Tile::lay_columns(part, slab, first);
      const int left = columns - first - Tile::kChunk;
      const int next_left = left > 0 ? left : next_columns;
      has_next = next_left > 0;
      if (params.maxima != nullptr) rescale();
      with_tiles<kTiles>((min_of(params.channels, kChannels) + 7) / 8, [&](auto tiles) {
        with_tiles<kGroups>((columns - first + 15) / 16, [&](auto groups) {
          constexpr int kCount = decltype(groups)::kCount;
#pragma unroll
          for (int i = 0; i < kCount; ++i) {
            const FragmentBlock<T> block = next[i % kAhead];
            // What comes next in this one's place is on its way while this one is multiplied.
            if (i + kAhead < kCount) {
              ask(next[i % kAhead], source, i + kAhead, columns - first);
            } else {
              ask(next[i % kAhead], source + kChunkBytes, i % kAhead, next_left);
            }
            GemmProducts<T>::template multiply_block<decltype(tiles)::kCount>(
                sums, block, slab_of(of_stage), pitch(), shared.rows[warp] + at + i * 16,
                params.is_precise);
          }
#pragma unroll
          for (int i = kCount; i < kAhead; ++i) ask(next[i], source + kChunkBytes, i, next_left);
        });
      });
      source += kChunkBytes;
    }
  }

 private:
  // Read again where they are used: registers are for sums.
  __device__ __forceinline__ int first_channel() const { return shared.block * kChannels; }
  __device__ __forceinline__ int channels() const {
    return min_of(params.channels - first_channel(), kChannels);
  }
  // Products run over all channels of a block, or half of them, whatever there is.
  __device__ __forceinline__ int pitch() const {
    return Tile::pitch_of(params.channels > kChannels / 2 ? kChannels : kChannels / 2);
  }

  bool has_next;  // whether fragments of the next chunk were asked for

  __device__ __forceinline__ char* slab_of(int of_stage) const {
    return slabs + of_stage * params.slab_rows * pitch();
  }

  // A group of a chunk of `columns` columns or more; zero where it is not there.
  static __device__ __forceinline__ void ask(FragmentBlock<T>& block, const char* chunk, int group,
                                             int columns) {
    if (group * 16 < columns) {
      block = load_block<T>(chunk, group);
    } else {
      block = FragmentBlock<T>{};
    }
  }

  // Weights of a chunk were lowered by the maximum of the row so far.
  __device__ __forceinline__ void rescale() {
    Number factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Number most = __ldg(maxima + half * 8 + lane / 4);
      factors[half] =
          most == largest[half] ? Number(1) : Exponential<Number>::of(largest[half] - most);
      largest[half] = most;
    }
    maxima += Tile::kWarpRows;
    if (!__any_sync(0xffffffffu, factors[0] != 1 || factors[1] != 1)) return;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] *= factors[i / 2];
    }
  }

  __device__ __forceinline__ void store() const {
    const Number* totals = params.maxima == nullptr
                               ? nullptr
                               : Tile::maxima_of(head) + params.chunks * Tile::kWarpRows;
    const bool is_vector = params.is_vector(kQueryArray);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate at = Tile::position_of(Tile::row_of(half), is_real);
      if (!is_real) continue;
      Number factor = Number(params.scale);
      if (totals != nullptr) factor /= totals[half * 8 + lane / 4];
      T* const row = static_cast<T*>(params.query.data) + Tile::offset_of(params.query, at, head) +
                     first_channel() * params.query.channel;
      store_row<T>(row, sums, half, channels(), params.query.channel, is_vector, factor);
    }
  }
};

}  // namespace cupyna
