// The keys that a run of queries sees, and the queries that see a run of keys.
#pragma once

#include "../../common/warp.cuh"
#include "../../geometry/run.cuh"

namespace cupyna {

// A lane's share of rows that follow each other. The last one is repeated: what is
// beyond has no weight.
template <typename T>
struct RowWalk {
  const T* row;
  long long step;
  int left;  // rows after this one

  __device__ __forceinline__ void advance() {
    if (left > 0) row += step;
    --left;
  }
};

// Windows of a run of queries: one slot at a time along x and y, all slots together along z.
struct QueryBox {
  int x_begin, x_end, y_begin, y_end;
  int begin;  // first key along z that some query sees, and the last one
  int last;

  __device__ explicit QueryBox(const Run& run)
      : x_begin(run.x.line.window_begin(run.x.position)),
        x_end(run.x.line.window_end(run.x.position)),
        y_begin(run.y.line.window_begin(run.y.position)),
        y_end(run.y.line.window_end(run.y.position)),
        begin(run.z.line.window_begin(run.z.position)),
        last(run.z.line.window_end(run.last()) - 1) {}

  // Causal windows shrink: slots past their end name the last key, and are not inside.
  __device__ __forceinline__ bool is_inside(int x_slot, int y_slot) const {
    return x_begin + x_slot < x_end && y_begin + y_slot < y_end;
  }
  __device__ __forceinline__ int x_token(const Run& run, int slot) const {
    return run.x.token(min_of(x_begin + slot, x_end - 1));
  }
  __device__ __forceinline__ int y_token(const Run& run, int slot) const {
    return run.y.token(min_of(y_begin + slot, y_end - 1));
  }
};

// The window of one query of a run along z; empty for queries that a short run lacks.
struct OwnWindow {
  int begin, end;

  __device__ OwnWindow(const Run& run, int query)
      : begin(run.z.line.window_begin(run.z.position + query)),
        end(query < run.count ? run.z.line.window_end(run.z.position + query) : 0) {}

  __device__ __forceinline__ bool contains(int key) const { return begin <= key && key < end; }
};

// Queries that see a run of keys: an interval along each axis. Along z they are taken in pairs, so
// it begins with an even one.
struct KeyBox {
  int x_begin, x_end, y_begin, y_end, begin, end;
  int x_steps, y_steps, steps;  // the same in all of a warp

  __device__ explicit KeyBox(const Run& run)
      : x_begin(run.x.line.query_begin(run.x.position)),
        x_end(run.x.line.query_end(run.x.position)),
        y_begin(run.y.line.query_begin(run.y.position)),
        y_end(run.y.line.query_end(run.y.position)),
        begin(run.z.line.query_begin(run.z.position) & ~1),
        end(run.z.line.query_end(run.last())) {
    x_steps = warp_max(x_end - x_begin);
    y_steps = warp_max(y_end - y_begin);
    steps = (warp_max(end - begin) + 1) & ~1;
  }

  // Groups with fewer queries than another one of the warp repeat their last.
  __device__ __forceinline__ bool is_inside(int x_step, int y_step) const {
    return x_begin + x_step < x_end && y_begin + y_step < y_end;
  }
  __device__ __forceinline__ int x_query(int step) const {
    return min_of(x_begin + step, x_end - 1);
  }
  __device__ __forceinline__ int y_query(int step) const {
    return min_of(y_begin + step, y_end - 1);
  }
};

}  // namespace cupyna
