// Masks for nothing: products of queries and keys that start from zeros and minus infinities.
#pragma once

#include "../../ptx/mma_sm80.cuh"

namespace cupyna {

// Of a thread's two rows, in each eight keys of what repeats: minus infinity where the row does not
// see a key.
template <int kEights>
struct LineEnds {
  float of_rows[2][kEights][2];

  // The first product of eight keys, those with this number.
  template <typename T>
  __device__ __forceinline__ void multiply(float (&scores)[4], const unsigned (&query)[4],
                                           unsigned key0, unsigned key1, int eight) const {
    const int n = eight % kEights;
    const float onto[4] = {of_rows[0][n][0], of_rows[0][n][1], of_rows[1][n][0], of_rows[1][n][1]};
    ptx::mma_m16n8k16_onto<T>(scores, onto, query, key0, key1);
  }
};

}  // namespace cupyna
