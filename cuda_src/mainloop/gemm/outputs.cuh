// Weights x key box: outputs, or gradients of queries.
//
//   rows of weights -> shared memory, a chunk's slots at a time -> fragments, zero outside a window
//   slabs of V -> shared memory -> O = P V, 16 rows x kChannels channels of a warp
#pragma once

#include "score_tile.cuh"
#include "store.cuh"

namespace cupyna {

template <typename T, int kChannels>
struct GemmOutputs : GemmScoreTile<T> {
  using Base = GemmScoreTile<T>;
  using Tile = typename Base::Tile;
  using Stage = typename Base::Stage;
  using Base::params, Base::shared, Base::warp, Base::lane, Base::head;
  using typename Base::Number;
  using typename Base::Rows;
  using typename Base::Shared;
  static constexpr int kTiles = kChannels / 8;

  char* const memory;
  T* buffers;  // two
  Stage* stage;
  SlotRun run;
  int first_channel, channels, pitch;
  Number sums[kTiles][4];

  __device__ GemmOutputs(const GemmParams& given, Shared& shared, char* memory)
      : Base(given, shared), memory(memory) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::for_planes(params.heads, [&] { compute_plane(); });
  }

  __device__ __forceinline__ void compute_plane() {
    first_channel = shared.block * kChannels;
    channels = min_of(params.channels - first_channel, kChannels);
    // Products run over all channels of a block, or half of them, whatever there is.
    pitch = Tile::pitch_of(params.channels > kChannels / 2 ? kChannels : kChannels / 2);
    buffers = reinterpret_cast<T*>(memory + params.stages * params.slab_rows * pitch) +
              warp * 2 * Stage::kElements;
    Stage rows = Base::stage_of(buffers, params.weights, params.is_vector(kWeightsArray));
    stage = &rows;
    run = SlotRun{&shared.windows[Base::stage_row()]};
    clear(sums);
    Tile::walk(*this);
    if (Tile::has_rows) store();
  }

  __device__ __forceinline__ void copy(const Window& slab, int of_stage) const {
    Tile::copy_slab(slab_of(of_stage), slab, params.key, head / params.head_group, first_channel,
                    channels, pitch, params.is_vector(kKeyArray));
  }

  // The first chunk's slots come before the next slab.
  __device__ __forceinline__ void prepare(const Part& part) {
    run.advance(Tile::slots(), part, Tile::kChunk);
    stage->read(0, run.first, run.past);
  }

  __device__ __forceinline__ void take(const Part& part, const Window& slab, int of_stage, int) {
    const int columns = part.columns();
    const Rows rows(*this, part.origin);
    for (int first = 0, turn = 0; first < columns; first += Tile::kChunk, turn ^= 1) {
      Tile::lay_columns(part, slab, first);
      T* const targets[2] = {Base::target_of(*stage, 0, part.origin) + turn * Stage::kElements,
                             Base::target_of(*stage, 1, part.origin) + turn * Stage::kElements};
      // The chunk after this one is on its way while this one is multiplied. Before the first chunk
      // the next slab was asked for, too; it need not be there yet.
      if (first + Tile::kChunk < columns) {
        run.advance(Tile::slots(), part, first + 2 * Tile::kChunk);
        stage->read(turn ^ 1, run.first, run.past);
      }
      ptx::copy_async_commit();
      if (first == 0) {
        ptx::copy_async_wait<2>();
      } else {
        ptx::copy_async_wait<1>();
      }
      __syncwarp();
      const int past = min_of(columns - first, Tile::kChunk);
      with_tiles<kTiles>((min_of(params.channels, kChannels) + 7) / 8, [&](auto tiles) {
        // The next block is on its way while this one is multiplied.
        FragmentBlock<T> next = gather(rows, targets, 0);
#pragma unroll 1
        for (int group = 0; group < past; group += 16) {
          const FragmentBlock<T> gathered = next;
          if (group + 16 < past) next = gather(rows, targets, group + 16);
          GemmProducts<T>::template multiply_block<decltype(tiles)::kCount>(
              sums, gathered, slab_of(of_stage), pitch, shared.rows[warp] + group,
              Float32Way::of(params.is_precise));
        }
      });
      __syncwarp();
    }
  }

 private:
  __device__ __forceinline__ char* slab_of(int of_stage) const {
    return memory + of_stage * params.slab_rows * pitch;
  }

  __device__ __forceinline__ FragmentBlock<T> gather(const Rows& rows, T* const (&targets)[2],
                                                     int group) const {
    FragmentBlock<T> gathered;
    const T zero = narrow<T>(Number(0));
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const int column = group + i * 4 + lane % 4 * 2;
      const uint2 fields = *reinterpret_cast<const uint2*>(&shared.fields[warp][column]);
      const int2 steps = *reinterpret_cast<const int2*>(&shared.steps[warp][column]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const T* const row = targets[half];
        gathered.at(half, i) = rows[half].contains(fields.x) ? row[steps.x] : zero;
        gathered.at(half, i + 1) = rows[half].contains(fields.y) ? row[steps.y] : zero;
      }
    }
    return gathered;
  }

  __device__ __forceinline__ void store() const {
    const bool is_vector = params.is_vector(kQueryArray);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate at = Tile::position_of(Tile::row_of(half), is_real);
      if (!is_real) continue;
      const Number factor = Number(params.scale);
      T* const row = static_cast<T*>(params.query.data) + Tile::offset_of(params.query, at, head) +
                     first_channel * params.query.channel;
      store_row<T, kSharingTiles<T>>(row, sums, half, channels, params.query.channel, is_vector,
                                     factor);
    }
  }
};

}  // namespace cupyna
