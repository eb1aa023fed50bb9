// Operands of the matrix units that keep 16 more bits.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

// Two floats rounded to 16 bits and packed, and what the rounding cut off.
template <class T>
struct RoundedPair {
  uint32_t rounded, cut_off;
  __device__ RoundedPair(float low, float high)
      : rounded(pack(low, high, T{})),
        cut_off(pack(low - unpack_low(rounded, T{}), high - unpack_high(rounded, T{}), T{})) {}
};

}  // namespace squeeze::cuda
