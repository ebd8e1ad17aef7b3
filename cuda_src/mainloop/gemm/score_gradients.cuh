// Query tile x key box, twice: weights and gradients of scores, for backward.
//
//   S = Q K^T -> P = exp(scale S + bias - lse)      dP = dO V^T -> dS = P (dP - delta)
//
// where delta = rowsum(dO O) - dlse. Both products meet in registers: neither scores nor gradients
// of weights cross memory.
#pragma once

#include "row_sums.cuh"
#include "score_tile.cuh"

namespace cupyna {

template <typename T>
struct GemmScoreGradients : GemmScoreTile<T> {
  using Base = GemmScoreTile<T>;
  using Tile = typename Base::Tile;
  using Stage = typename Base::Stage;
  using Base::params, Base::shared, Base::warp, Base::lane, Base::head;
  using typename Base::Number;
  using typename Base::Rows;
  using typename Base::Shared;

  const int pitch, value_pitch;
  char* const queries;
  char* const douts;
  char* const slabs;  // keys, then values, in each stage
  T* const buffer;
  Stage* stage;
  Stage* gradient_stage;
  SlotRun run;
  Number lse[2], delta[2];

  __device__ GemmScoreGradients(const GemmParams& given, Shared& shared, char* memory)
      : Base(given, shared),
        pitch(Tile::pitch_of(given.channels)),
        value_pitch(Tile::pitch_of(given.value_channels)),
        queries(memory),
        douts(queries + Tile::kRows * pitch),
        slabs(douts + Tile::kRows * value_pitch),
        buffer(
            reinterpret_cast<T*>(slabs + given.stages * given.slab_rows * (pitch + value_pitch)) +
            warp * 2 * Stage::kElements) {}

  __device__ __forceinline__ void compute() {
    Tile::place();
    Tile::for_planes(params.heads, [&] { compute_plane(); });
  }

  __device__ __forceinline__ void compute_plane() {
    Tile::copy_tile(queries, params.query, head, params.channels, params.is_vector(kQueryArray));
    Tile::copy_tile(douts, params.dout, head, params.value_channels, params.is_vector(kDoutArray));
    Stage rows = Base::stage_of(buffer, params.weights, true);
    Stage gradient_rows = Base::stage_of(buffer + Stage::kElements, params.gradient, true);
    stage = &rows;
    gradient_stage = &gradient_rows;
    run = SlotRun{&shared.windows[Base::stage_row()]};
    load_statistics();
    Tile::walk(*this);
    if (!Tile::has_rows) return;
    rows.finish(run.past);
    gradient_rows.finish(run.past);
  }

  __device__ __forceinline__ void copy(const Window& slab, int of_stage) const {
    const int of_head = head / params.head_group;
    Tile::copy_slab(keys_of(of_stage), slab, params.key, of_head, 0, params.channels, pitch,
                    params.is_vector(kKeyArray));
    Tile::copy_slab(values_of(of_stage), slab, params.value, of_head, 0, params.value_channels,
                    value_pitch, params.is_vector(kValueArray));
  }

  __device__ __forceinline__ void prepare(const Part&) const {}

  __device__ __forceinline__ void take(const Part& part, const Window& slab, int of_stage, int) {
    const int columns = part.columns();
    const Rows rows(*this, part.origin);
    for (int first = 0; first < columns; first += Tile::kChunk) {
      Tile::lay_columns(part, slab, first);
      run.advance(Tile::slots(), part, first + Tile::kChunk);
      with_tiles<kChunkTiles<T>>((columns - first + 7) / 8, [&](auto tiles) {
        leave_chunk<decltype(tiles)::kCount>(rows, part.origin, of_stage);
      });
      stage->write(run.past, false, T());
      gradient_stage->write(run.past, false, T());
    }
  }

 private:
  // From the products of a chunk to elements in shared memory.
  template <int kCount>
  __device__ __forceinline__ void leave_chunk(const Rows& rows, const Coordinate& origin,
                                              int of_stage) {
    GemmChunk<T> weights = {};
    GemmProducts<T>::template multiply_rows<kCount, 2>(
        weights, queries + warp * Tile::kWarpRows * pitch, keys_of(of_stage), pitch,
        Tile::padded_bytes(params.channels), shared.rows[warp], Float32Way::of(params.is_precise));
    const auto wanted = Base::template wanted_of<kCount>(rows);
    Base::template finish_scores<kCount>(weights, wanted, origin, Exponential<Number>::kUnit);
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        weights[n][i] = Exponential<Number>::of(weights[n][i] - lse[i / 2]);
      }
    }
    T* const targets[2] = {Base::target_of(*stage, 0, origin), Base::target_of(*stage, 1, origin)};
    Base::template leave<kCount>(weights, wanted, targets);
    GemmChunk<T> gradients = {};
    GemmProducts<T>::template multiply_rows<kCount, 2>(
        gradients, douts + warp * Tile::kWarpRows * value_pitch, values_of(of_stage), value_pitch,
        Tile::padded_bytes(params.value_channels), shared.rows[warp],
        Float32Way::of(params.is_precise));
    if constexpr (sizeof(T) == 8) {
      // Registers hold one of the two products.
      Base::template take_back<kCount>(weights, wanted, targets);
    }
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        gradients[n][i] = weights[n][i] * (gradients[n][i] - delta[i / 2]);
      }
    }
    T* const gradient_targets[2] = {targets[0] + Stage::kElements, targets[1] + Stage::kElements};
    Base::template leave<kCount>(gradients, wanted, gradient_targets);
  }

  __device__ __forceinline__ char* keys_of(int of_stage) const {
    return slabs + of_stage * params.slab_rows * (pitch + value_pitch);
  }
  __device__ __forceinline__ char* values_of(int of_stage) const {
    return keys_of(of_stage) + params.slab_rows * pitch;
  }

  // Four lanes share rows l / 4 and l / 4 + 8.
  __device__ __forceinline__ void load_statistics() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bool is_real;
      const Coordinate at = Tile::position_of(Tile::row_of(half), is_real);
      lse[half] =
          static_cast<const Number*>(params.lse.data)[Tile::offset_of(params.lse, at, head)] *
          Exponential<Number>::kUnit;
      delta[half] = row_sum_of<T>(params, Tile::offset_of(params.dout, at, head),
                                  Tile::offset_of(params.output, at, head),
                                  Tile::offset_of(params.dlse, at, head));
    }
  }
};

}  // namespace cupyna
