// What cuda_src/ptx/shared_memory.cuh does, on a CPU. A copy arrives when its group is waited for,
// and not before: what reads too early reads what was there.
#pragma once

#include <block.hpp>

namespace cupyna::ptx {

// A distance from the dynamic memory of a block; static memory is not far from it.
inline unsigned shared_address(const void* pointer) {
  const std::ptrdiff_t address = static_cast<const unsigned char*>(pointer) - emulation::memory;
  if (address != static_cast<int>(address)) emulation::fail("an address that is not shared");
  return static_cast<unsigned>(address);
}

template <bool kIsTransposed>
void load_matrices(unsigned (&fragment)[4], unsigned address) {
  struct Lane {
    unsigned address;
    unsigned* fragment;
  } mine{address, fragment};
  if (address % 16 != 0) emulation::fail("a matrix row that is not aligned to 16 bytes");
  emulation::in_warp(mine, [](Lane** lanes) {
    uint16_t matrix[4][8][8];
    for (int i = 0; i < emulation::kWarp; ++i) {
      std::memcpy(matrix[i / 8][i % 8], emulation::in_shared(lanes[i]->address, 16), 16);
    }
    for (int i = 0; i < emulation::kWarp; ++i) {
      const int row = i / 4, column = i % 4 * 2;
      for (int m = 0; m < 4; ++m) {
        const unsigned low = kIsTransposed ? matrix[m][column][row] : matrix[m][row][column];
        const unsigned high =
            kIsTransposed ? matrix[m][column + 1][row] : matrix[m][row][column + 1];
        lanes[i]->fragment[m] = low | high << 16;
      }
    }
  });
}

template <int kWords>
void load_shared(unsigned (&words)[kWords], unsigned address) {
  if (address % sizeof(words) != 0) emulation::fail("words that are not aligned to their size");
  std::memcpy(words, emulation::in_shared(address, sizeof(words)), sizeof(words));
}

inline void ldmatrix_x4(unsigned (&fragment)[4], unsigned address) {
  load_matrices<false>(fragment, address);
}
inline void ldmatrix_x4_trans(unsigned (&fragment)[4], unsigned address) {
  load_matrices<true>(fragment, address);
}

inline void copy_async(unsigned target, const void* source, int bytes, int size) {
  emulation::in_shared(target, size);
  const bool is_aligned = target % size == 0 && reinterpret_cast<uintptr_t>(source) % size == 0;
  if (bytes != 0 && !is_aligned) emulation::fail("a copy that is not aligned to its size");
  emulation::fibers[emulation::current].open.push_back({target, source, bytes, size});
}
inline void copy_async_16(unsigned target, const void* source, int bytes) {
  copy_async(target, source, bytes, 16);
}
inline void copy_async_8(unsigned target, const void* source, int bytes) {
  copy_async(target, source, bytes, 8);
}

inline void copy_async_commit() {
  emulation::Fiber& fiber = emulation::fibers[emulation::current];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}

template <int kPending>
void copy_async_wait() {
  auto& groups = emulation::fibers[emulation::current].groups;
  while (groups.size() > kPending) {
    for (const emulation::Copy& copy : groups.front()) {
      unsigned char* target = emulation::in_shared(copy.target, copy.size);
      std::memset(target, 0, copy.size);
      std::memcpy(target, copy.source, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

}  // namespace cupyna::ptx
