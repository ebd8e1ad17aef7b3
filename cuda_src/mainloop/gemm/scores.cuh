// Query tile x key box: scores, or gradients of weights, or the exponentials of the scores.
//
//   Q tile, slabs of K -> shared memory -> S = Q K^T, 16 rows x 64 columns of a warp
//   S -> scale, bias, mask -> columns pick slots in shared memory -> compact rows, 16 bytes at a
//   time
//
// With a softmax, exponentials are lowered by the row's running maximum, and the maximum of each
// chunk is stored beside them: the product with the values rescales its sums by it, and weights
// cross memory once in each direction.
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
  int chunk = 0;
  Number* maxima[2];
  Number largest[2], sums[2];

  __device__ GemmScores(const GemmParams& given, Shared& shared, char* memory)
      : Base(given, shared),
        pitch(Tile::pitch_of(given.channels)),
        queries(memory),
        slabs(queries + Tile::kRows * pitch),
        buffer(reinterpret_cast<T*>(slabs + given.stages * given.slab_rows * pitch) +
               warp * Stage::kElements) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::for_planes([&] { compute_plane(); });
  }

  __device__ __forceinline__ void compute_plane() {
    Tile::copy_tile(queries, params.query, params.channels, params.is_vector(kQueryArray));
    Stage rows = Base::stage_of(buffer, params.weights, params.is_vector(kWeightsArray));
    stage = &rows;
    run = SlotRun{&shared.windows[Base::stage_row()]};
    chunk = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      maxima[half] = Base::number_of(params.maxima, half);
      largest[half] = Base::nothing();
      sums[half] = 0;
    }
    if (params.fills) rows.fill(Tile::slots().count(), narrow<T>(Number(params.empty)));
    Tile::walk(*this);
    if (!Tile::has_rows) return;
    rows.finish(run.past);
    if (params.maxima.data != nullptr) store_sums();
  }

  __device__ __forceinline__ void copy(const Window& slab, int of_stage) const {
    Tile::copy_slab(slab_of(of_stage), slab, params.key, head / params.head_group, 0,
                    params.channels, pitch, params.is_vector(kKeyArray));
  }

  __device__ __forceinline__ void prepare(const Part&) const {}

  __device__ __forceinline__ void take(const Part& part, const Window& slab, int of_stage) {
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
        Tile::padded_bytes(params.channels), shared.rows[warp], params.is_precise);
    const auto wanted = Base::template wanted_of<kCount>(rows);
    const bool has_softmax = params.maxima.data != nullptr;
    Base::template finish_scores<kCount>(scores, wanted, origin,
                                         has_softmax ? Exponential<Number>::kUnit : Number(1));
    if (has_softmax) exponentiate<kCount>(scores, wanted);
    T* const targets[2] = {Base::target_of(*stage, 0, origin), Base::target_of(*stage, 1, origin)};
    Base::template leave<kCount>(scores, wanted, targets);
  }

  // Exponentials of the scores, and the maxima that they are lowered by.
  template <int kCount>
  __device__ __forceinline__ void exponentiate(GemmChunk<T>& scores,
                                               const typename Base::Wanted& wanted) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Number most = largest[half];
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Number& score = scores[n][2 * half + i];
          score = wanted.has(half, n, i) ? score : Base::nothing();
          most = max(most, score);
        }
      }
      most = max(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = max(most, __shfl_xor_sync(0xffffffffu, most, 2));
      // A row without a key so far must not meet inf - inf.
      const Number shift = most == Base::nothing() ? Number(0) : most;
      sums[half] *= Exponential<Number>::of(largest[half] - shift);
      largest[half] = most;
#pragma unroll
      for (int n = 0; n < kCount; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          Number& score = scores[n][2 * half + i];
          score = Exponential<Number>::of(score - shift);
          sums[half] += score;
        }
      }
      if (lane % 4 == 0 && maxima[half] != nullptr) maxima[half][chunk] = most;
    }
    ++chunk;
  }

  __device__ __forceinline__ void store_sums() const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Number sum = sums[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (lane % 4 != 0 || maxima[half] == nullptr) continue;
      maxima[half][params.chunks] = sum;
      Number* const lse = Base::number_of(params.lse, half);
      if (lse != nullptr) *lse = largest[half] * Exponential<Number>::kNatural + logarithm(sum);
    }
  }
};

}  // namespace cupyna
