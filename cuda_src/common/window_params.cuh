// What a launch of a small-window kernel is told; cupyna/kernels/window/params.py mirrors it.
#pragma once

#include "attention_params.cuh"

namespace cupyna {

// Rows are queries, and columns keys, but in the pass over keys of backward.
struct WindowAxis {
  int warp_extent_log2;  // rows of one warp's tile
  int warp_tiles;        // of one block
  int slots;             // columns of a warp's box
  int box;               // columns of a block's box
  int pitch;             // tokens of shared memory from one column to the next
};

struct WindowGrid {
  WindowAxis axis[kAxes];
  int blocks_of_slots;  // of a warp's box
  int steps_of_slots;   // the same by sixteens
  int box_tokens;       // of shared memory, for all heads of a block
  int head_tokens;      // and for one
  int heads;            // heads of the columns that a block has side by side
  int head_blocks;      // and how many blocks share all of them
  unsigned works;       // tiles of all blocks' heads and batch entries
};

struct WindowParams {
  AttentionParams attention;
  WindowGrid grid;
};

struct WindowGradientParams {
  GradientParams attention;
  WindowGrid grid;
};

}  // namespace cupyna
