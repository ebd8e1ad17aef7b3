// Query tile x key box: scores, or gradients of weights, as a caller lays them out.
//
//   Q tile, slabs of K -> shared memory -> S = Q K^T, 16 rows x 64 columns of a warp
//   S -> scale, bias, mask -> columns pick slots in shared memory -> compact rows, 16 bytes at a
//   time
#pragma once

#include "score_tile.cuh"

namespace cupyna {

template <typename T>
struct GemmScores : GemmScoreTile<T> {
  using Base = GemmScoreTile<T>;
  using Tile = typename Base::Tile;
  using Stage = typename Base::Stage;
  using Base::params, Base::shared, Base::warp, Base::lane, Base::head;
  using typename Base::Number;
  using typename Base::Rows;
  using typename Base::Shared;

  const int pitch;
  char* const queries;
  char* const slabs;
  T* const buffer;
  Stage* stage;
  SlotRun run;

  __device__ GemmScores(const GemmParams& given, Shared& shared, char* memory)
      : Base(given, shared),
        pitch(Tile::pitch_of(given.channels)),
        queries(memory),
        slabs(queries + Tile::kRows * pitch),
        buffer(reinterpret_cast<T*>(slabs + given.stages * given.slab_rows * pitch) +
               warp * Stage::kElements) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::for_planes(params.heads, [&] { compute_plane(); });
  }

  __device__ __forceinline__ void compute_plane() {
    Tile::copy_tile(queries, params.query, head, params.channels, params.is_vector(kQueryArray));
    Stage rows = Base::stage_of(buffer, params.weights, params.is_vector(kWeightsArray));
    stage = &rows;
    run = SlotRun{&shared.windows[Base::stage_row()]};
    if (params.fills) rows.fill(Tile::slots().count(), narrow<T>(Number(params.empty)));
    Tile::walk(*this);
    if (!Tile::has_rows) return;
    rows.finish(run.past);
  }

  __device__ __forceinline__ void copy(const Window& slab, int of_stage) const {
    Tile::copy_slab(slab_of(of_stage), slab, params.key, head / params.head_group, 0,
                    params.channels, pitch, params.is_vector(kKeyArray));
  }

  __device__ __forceinline__ void prepare(const Part&) const {}

  __device__ __forceinline__ void take(const Part& part, const Window& slab, int of_stage, int) {
    const int columns = part.columns();
    const Rows rows(*this, part.origin);
    for (int first = 0; first < columns; first += Tile::kChunk) {
      Tile::lay_columns(part, slab, first);
      run.advance(Tile::slots(), part, first + Tile::kChunk);
      if (!stage->is_vector) stage->begin = run.first;
      with_tiles<kChunkTiles<T>>((columns - first + 7) / 8, [&](auto tiles) {
        leave_chunk<decltype(tiles)::kCount>(rows, part.origin, of_stage);
      });
      stage->write(run.past, params.fills, narrow<T>(Number(params.empty)));
    }
  }

 private:
  __device__ __forceinline__ char* slab_of(int of_stage) const {
    return slabs + of_stage * params.slab_rows * pitch;
  }

  // From the products of a chunk to elements in shared memory.
  template <int kCount>
  __device__ __forceinline__ void leave_chunk(const Rows& rows, const Coordinate& origin,
                                              int of_stage) {
    GemmChunk<T> scores = {};
    GemmProducts<T>::template multiply_rows<kCount, 1>(
        scores, queries + warp * Tile::kWarpRows * pitch, slab_of(of_stage), pitch,
        Tile::padded_bytes(params.channels), shared.rows[warp], Float32Way::of(params.is_precise));
    const auto wanted = Base::template wanted_of<kCount>(rows);
    Base::template finish_scores<kCount>(scores, wanted, origin, Number(1));
    T* const targets[2] = {Base::target_of(*stage, 0, origin), Base::target_of(*stage, 1, origin)};
    Base::template leave<kCount>(scores, wanted, targets);
  }
};

}  // namespace cupyna
