// Fragments of weights x box: outputs and gradients of queries, or of keys and values.
//
//   fragments of each warp, slabs of V -> shared memory -> O = P V, 16 rows x kChannels channels of
//   a warp
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
  using Tile::params, Tile::shared, Tile::warp, Tile::lane;
  using typename Tile::Pass;
  using typename Tile::Shared;
  using typename Tile::Slab;
  using Number = Wide<T>;
  static constexpr int kTiles = kChannels / 8;
  static constexpr int kMaximaBytes = Tile::kWarpRows * int(sizeof(Number));

  char* const memory;
  long long* const offsets;
  int own_stage;
  int chunks_asked, groups_asked;  // of the pass whose slabs are asked for
  Number largest[2];
  Number sums[kTiles][4];

  __device__ GemmValues(const GemmParams& given, Shared& shared, char* memory)
      : Tile(given, shared, given.is_transposed ? Side::kKey : Side::kQuery),
        memory(memory),
        offsets(reinterpret_cast<long long*>(
            memory + given.stages * (stage_bytes() + Tile::kWarps * kMaximaBytes))) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::lay_offsets(offsets, params.key);
    __syncthreads();
    const int group = params.is_transposed ? params.head_group : 1;
    Tile::walk(*this, params.heads / group, group);
  }

  // Asks for the sums of the rows, which end each of them.
  __device__ __forceinline__ void copy_own(const Pass& pass, int of_stage) {
    chunks_asked = groups_asked = 0;
    if (params.maxima == nullptr || !Tile::has_rows) return;
    const Number* totals = Tile::maxima_of(pass) + params.chunks * Tile::kWarpRows;
    ask(totals_of(of_stage), reinterpret_cast<const char*>(totals), kMaximaBytes);
  }

  __device__ __forceinline__ void copy(const Pass& pass, const Slab& slab, int of_stage) {
    const int of_head = params.is_transposed ? pass.query_head : Tile::key_head(pass);
    Tile::copy_slab(slab_of(of_stage), Tile::place_of(slab), params.key, offsets, pass, of_head,
                    first_channel(), channels(), pitch(), params.is_vector(kKeyArray));
    const int columns = Tile::share_of(slab).columns;
    if (columns == 0) return;
    const char* from = Tile::fragments_of(params.weights, pass) + groups_asked * kBlockBytes<T>;
    ask(blocks_of(of_stage), from, (columns + 15) / 16 * kBlockBytes<T>);
    const int chunks = (columns + Tile::kChunk - 1) / Tile::kChunk;
    if (params.maxima != nullptr) {
      const Number* maxima = Tile::maxima_of(pass) + chunks_asked * Tile::kWarpRows;
      ask(maxima_of_stage(of_stage), reinterpret_cast<const char*>(maxima), chunks * kMaximaBytes);
    }
    chunks_asked += chunks;
    groups_asked += (columns + 15) / 16;
  }

  __device__ __forceinline__ void begin(const Pass&, bool is_first, int of_stage) {
    if (is_first) clear(sums);
    own_stage = of_stage;
    largest[0] = largest[1] = -Number(infinity());
  }

  __device__ __forceinline__ void take(int columns, const Coordinate& slab, int of_stage) {
    const char* blocks = blocks_of(of_stage);
    const Number* maxima = reinterpret_cast<const Number*>(maxima_of_stage(of_stage));
#pragma unroll 1
    for (int first = 0; first < columns; first += Tile::kChunk) {
      const int at = Tile::template lay_columns<false>(slab, first);
      if (params.maxima != nullptr) {
        rescale(maxima);
        maxima += Tile::kWarpRows;
      }
      const int groups = Tile::groups_of(columns, first);
      with_tiles<kTiles>((min_of(params.channels, kChannels) + 7) / 8, [&](auto tiles) {
        FragmentBlock<T> next = load_block<T>(blocks, 0);
#pragma unroll 1
        for (int i = 0; i < groups; ++i) {
          const FragmentBlock<T> block = next;
          if (i + 1 < groups) next = load_block<T>(blocks, i + 1);
          GemmProducts<T>::template multiply_block<decltype(tiles)::kCount>(
              sums, block, slab_of(of_stage), pitch(), shared.rows[warp] + at + i * 16,
              Float32Way::of(params.is_precise));
        }
      });
      blocks += Tile::kChunk / 16 * kBlockBytes<T>;
    }
  }

  __device__ __forceinline__ void end(const Pass& pass) const {
    const Number* totals = reinterpret_cast<const Number*>(totals_of(own_stage));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Tile::row_of(half);
      if (!shared.tokens[row].is_real) continue;
      Number factor = Number(params.scale);
      if (params.maxima != nullptr) factor /= totals[half * 8 + lane / 4];
      T* const to = static_cast<T*>(params.query.data) +
                    Tile::offset_of_row(params.query, row, pass, pass.head) +
                    first_channel() * params.query.channel;
      store_row<T, kSharingTiles<T>>(to, sums, half, channels(), params.query.channel,
                                     params.is_vector(kQueryArray), factor);
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

  // A stage: rows of a slab, and fragments and maxima of each warp's part of it.
  __device__ __forceinline__ int blocks_bytes() const {
    return params.part_groups * kBlockBytes<T>;
  }
  __device__ __forceinline__ int maxima_bytes() const {
    return (params.part_groups * 16 + Tile::kChunk - 1) / Tile::kChunk * kMaximaBytes;
  }
  __device__ __forceinline__ int stage_bytes() const {
    return params.slab_rows * pitch() + Tile::kWarps * (blocks_bytes() + maxima_bytes());
  }
  __device__ __forceinline__ char* totals_of(int of_stage) const {
    return memory + params.stages * stage_bytes() + (of_stage * Tile::kWarps + warp) * kMaximaBytes;
  }
  __device__ __forceinline__ char* slab_of(int of_stage) const {
    return memory + of_stage * stage_bytes();
  }
  __device__ __forceinline__ char* blocks_of(int of_stage) const {
    return slab_of(of_stage) + params.slab_rows * pitch() + warp * blocks_bytes();
  }
  __device__ __forceinline__ char* maxima_of_stage(int of_stage) const {
    return slab_of(of_stage) + params.slab_rows * pitch() + Tile::kWarps * blocks_bytes() +
           warp * maxima_bytes();
  }

  // Asks for a whole number of vectors for this warp.
  __device__ __forceinline__ void ask(char* target, const char* source, int bytes) const {
    for (int at = lane * 16; at < bytes; at += 512) {
      ptx::copy_async_16(ptx::shared_address(target + at), source + at, 16);
    }
  }

  // Weights of a chunk were lowered by the maximum of the row so far.
  __device__ __forceinline__ void rescale(const Number* maxima) {
    Number factors[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Number most = maxima[half * 8 + lane / 4];
      // Nothing was summed before the first chunk.
      const bool stays = most == largest[half] || largest[half] == -Number(infinity());
      factors[half] = stays ? Number(1) : Exponential<Number>::of(largest[half] - most);
      largest[half] = most;
    }
    if (!__any_sync(0xffffffffu, factors[0] != 1 || factors[1] != 1)) return;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] *= factors[i / 2];
    }
  }
};

}  // namespace cupyna
