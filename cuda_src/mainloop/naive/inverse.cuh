// Weights x inverse neighborhood: gradients of keys and values.
//
// A group of lanes owns a run of keys and sums the rows of all queries that see one of them, for
// every query head that shares the key head. Nothing is added from elsewhere, so there is no
// atomic and every run gives the same bits. Quads of the runs of these queries come through shared
// memory, one chunk ahead of their use.
#pragma once

#include "../../common/warp.cuh"
#include "../../pipeline/quads.cuh"
#include "accumulate.cuh"
#include "box.cuh"

namespace cupyna {

// Queries of a chunk; they may begin in the middle of a run.
constexpr int kQueryChunk = 16;
constexpr int kQueryChunkQuads = (kQueryChunk / kRun + 1) * kRun;

template <typename T, bool kIsVector>
struct NaiveInverse {
  using Number = Wide<T>;
  using Buffers = QuadBuffers<Number, kQueryChunkQuads>;

  // Weights of two neighboring queries for one key: half a quad.
  struct alignas(2 * sizeof(Number)) Pair {
    Number query[2];
  };

  // The queries along z at one place along x and y, and one head.
  struct Line {
    const T* rows;              // the first query of the box
    const Quad<Number>* quads;  // of run 0, for key 0 of the slots along x and y
    int past;                   // queries that see a key of the run are before it
  };

  const Params& params;
  const Lanes lanes;
  const Run run;
  const KeyBox box;
  const Channels<T, kIsVector> lane;
  Buffers& buffers;
  RunSums<T, kIsVector> gradients;

  __device__ NaiveInverse(const Params& given, Buffers* of_groups)
      : params(given),
        lanes(given.lanes),
        run(given, blockIdx.x * Lanes::groups(given.lanes) + lanes.group,
            given.items * given.blocks),
        box(run),
        lane(given.query, given.channels, lanes.count, lanes.index, run.block),
        buffers(of_groups[lanes.group]) {}

  __device__ void compute(int batch, int key_head) {
    gradients = {};
    int head = key_head * params.head_group;
    int x_step = 0;
    int y_step = 0;
    int turn = 0;
    Line line = line_at(batch, head, x_step, y_step);
    fetch(line, 0, turn);
    ptx::copy_async_commit();
    for (int left = params.head_group * box.x_steps * box.y_steps; left > 0; --left) {
      Line next = line;
      if (left > 1) {
        if (++y_step == box.y_steps) {
          y_step = 0;
          if (++x_step == box.x_steps) {
            x_step = 0;
            ++head;
          }
        }
        next = line_at(batch, head, x_step, y_step);
      }
      RowWalk<T> walk{line.rows, run.z.dilation * params.query.axis[2], box.end - 1 - box.begin};
      for (int first = 0; first < box.steps; first += kQueryChunk) {
        if (first + kQueryChunk < box.steps) {
          fetch(line, first + kQueryChunk, turn + 1);
        } else if (left > 1) {
          fetch(next, 0, turn + 1);
        }
        ptx::copy_async_commit();
        wait_for_chunk();
        add(walk, min_of(kQueryChunk, box.steps - first), buffers.buffer(turn));
        __syncwarp();
        ++turn;
      }
      line = next;
    }
    gradients.store(params.key, params, run, lanes, batch, key_head);
  }

 private:
  __device__ __forceinline__ Line line_at(int batch, int head, int x_step, int y_step) const {
    const int x = box.x_query(x_step);
    const int y = box.y_query(y_step);
    const int x_slot = run.x.position - run.x.line.window_begin(x);
    const int y_slot = run.y.position - run.y.line.window_begin(y);
    const int place =
        (run.x.token(x) * params.axis[1].length + run.y.token(y)) * run.z.dilation + run.z.group;
    Line line;
    line.rows = lane.first + params.query.at<const T>(batch, run.x.token(x), run.y.token(y),
                                                      run.z.token(box.begin), head);
    line.quads = block_of<Number>(params, params.weights, batch, head, place * params.runs) +
                 (x_slot * params.axis[1].kernel_size + y_slot) * params.keys;
    line.past = box.is_inside(x_step, y_step) ? box.end : 0;
    return line;
  }

  // Four quads of each run from that of query `first` of the box on, one for each key.
  __device__ __forceinline__ void fetch(const Line& line, int first, int turn) {
    const int t = lanes.index % kRun;
    const int first_run = (box.begin + first) / kRun;
    Quad<Number>* target = buffers.buffer(turn);
    const int queries = box.begin % kRun + min_of(kQueryChunk, box.steps - first);
    const int quads = (queries + kRun - 1) / kRun * kRun;
#pragma unroll 1
    for (int j = lanes.index; j < quads; j += lanes.count) {
      const int other = first_run + j / kRun;
      const int key = run.z.position + t - run.z.line.window_begin(other * kRun);
      const bool exists =
          other * kRun < line.past && t < run.count && 0 <= key && key < params.keys;
      const long long offset = (long long)other * quads_of_block(params) + key;
      copy_quad(target + j, line.quads + (exists ? offset : 0), exists);
    }
  }

  // `count` is even, and so is the first query.
  __device__ __forceinline__ void add(RowWalk<T>& walk, int count, const Quad<Number>* quads) {
    int query = box.begin % kRun;
    const int past = query + count;
    for (; query < past - 2; query += 4) add_queries<4>(walk, quads, query);
    if (query < past) add_queries<2>(walk, quads, query);
  }

  template <int kQueries>
  __device__ __forceinline__ void add_queries(RowWalk<T>& walk, const Quad<Number>* quads,
                                              int query) {
    Number weights[kQueries][kRun];
#pragma unroll
    for (int i = 0; i < kQueries; i += 2) {
      const int at = query + i;
#pragma unroll
      for (int t = 0; t < kRun; ++t) {
        const Quad<Number>& quad = quads[at / kRun * kRun + t];
        const Pair pair = reinterpret_cast<const Pair*>(&quad)[at / 2 % 2];
        weights[i][t] = pair.query[0];
        weights[i + 1][t] = pair.query[1];
      }
    }
    gradients.template add<kQueries>(lane, walk, weights);
  }
};

}  // namespace cupyna
