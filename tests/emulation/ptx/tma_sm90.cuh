// What cuda_src/ptx/tma_sm90.cuh does, on a CPU, with descriptors of tests/emulation/boxes.py.
#pragma once

#include <block.hpp>

#include "mbarrier_sm90.cuh"

namespace cupyna::ptx {

struct BoxAxis {
  int length;
  short box, gap;
  long long bytes;  // from one element to the next
};
struct Boxes {
  const unsigned char* data;
  BoxAxis axis[5];
  int unused, row_bytes;
};
static_assert(sizeof(Boxes) <= 128, "as large as the driver's");

inline void load_box_5d(unsigned target, const void* map, unsigned barrier, int c0, int c1, int c2,
                        int c3, int c4) {
  Boxes boxes;
  std::memcpy(&boxes, map, sizeof boxes);
  if (target % 128 != 0) emulation::fail("a box that is not aligned to 128 bytes");
  const int corner[5] = {c0, c1, c2, c3, c4};
  int counts[5], bytes = 2, at[5] = {};
  for (int i = 0; i < 5; ++i) {
    counts[i] = (boxes.axis[i].box - 1) / boxes.axis[i].gap + 1;
    bytes *= counts[i];
  }
  const int row_chunks = boxes.row_bytes / 16, rows_of_line = 8 / row_chunks;
  for (int element = 0; element < bytes / 2; ++element) {
    const unsigned char* from = boxes.data;
    bool is_inside = true;
    for (int i = 0; i < 5; ++i) {
      const int position = corner[i] + at[i] * boxes.axis[i].gap;
      is_inside = is_inside && position >= 0 && position < boxes.axis[i].length;
      from += position * boxes.axis[i].bytes;
    }
    unsigned to = target + 2 * element;
    to ^= (to / 128 % row_chunks) * 16;
    uint16_t moved = 0;
    if (is_inside) std::memcpy(&moved, from, 2);
    std::memcpy(emulation::in_shared(to, 2), &moved, 2);
    for (int i = 0; i < 5 && ++at[i] == counts[i]; ++i) at[i] = 0;
  }
  complete_bytes(barrier, bytes);
}

}  // namespace cupyna::ptx
