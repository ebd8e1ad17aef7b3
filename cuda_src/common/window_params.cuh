// What a launch of a small-window kernel is told; cupyna/kernels/window_params.py mirrors it.
#pragma once

#include "attention_params.cuh"

namespace cupyna {

struct WindowAxis {
  int warp_extent_log2;  // queries of one warp's tile
  int warp_tiles;        // of one block
  int slots;             // keys of a warp's box
  int box;               // keys of a block's box
  int pitch;             // tokens of shared memory from one key to the next
};

struct WindowParams {
  AttentionParams attention;
  WindowAxis window[kAxes];
  int blocks_of_slots;  // of a warp's box
  int box_tokens;       // of shared memory
  int kv_heads;
  unsigned works;  // tiles of all heads and batch entries
};

}  // namespace cupyna
