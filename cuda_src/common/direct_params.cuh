// What a launch of a direct kernel is told; cupyna/kernels/direct/params.py mirrors it.
#pragma once

#include "attention_params.cuh"

namespace cupyna {

// Along one axis: runs of rows (of single rows but along the last axis) in a dilation group that is
// one token longer than others and in one that is not, longer groups and all their runs, runs of
// all groups, runs of a block's tile, and tiles.
struct DirectAxis {
  unsigned runs_of_longer;
  unsigned runs_of_shorter;
  unsigned longer;
  unsigned longer_runs;
  unsigned runs;
  unsigned tile_log2;
  unsigned tiles;
};

struct DirectGrid {
  DirectAxis axis[kAxes];
  // Bytes from one column of a dilation group to the next, in the two arrays of columns: small
  // enough for one instruction to find a column.
  int first_step[kAxes];
  int second_step[kAxes];
  unsigned heads_log2;  // of a block's tile
  unsigned head_tiles;  // of one batch entry
  unsigned planes;      // tiles of heads of all batch entries
  unsigned sharers;     // neighboring runs that ask for columns ahead, for some each; or none does
};

struct DirectParams {
  AttentionParams attention;
  DirectGrid grid;
};

struct DirectGradientParams {
  GradientParams attention;
  DirectGrid grid;
};

}  // namespace cupyna
