// Sums and maxima over the lanes of a warp, in a fixed order.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

template <class T>
__device__ T warp_sum(T x) {
  for (int other = 1; other < kWarpSize; other *= 2) x += __shfl_xor_sync(kAllLanes, x, other);
  return x;
}

__device__ inline float warp_max(float x) {
  for (int other = 1; other < kWarpSize; other *= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, other));
  return x;
}

// The largest of scores that have numbers, the lowest number of equals; NaN never wins.
struct Best {
  float score = -INFINITY;
  int32_t index = -1;  // of none so far

  __device__ void add(float other, int32_t number) {
    const bool first = index < 0 && other == other;
    if (number >= 0 && (first || other > score || (other == score && number < index))) {
      score = other;
      index = number;
    }
  }
  // What the lane whose number differs by `other` (exclusive or) found.
  __device__ void add_lane(int other) {
    const float score_there = __shfl_xor_sync(kAllLanes, score, other);
    add(score_there, __shfl_xor_sync(kAllLanes, index, other));
  }
};

}  // namespace squeeze::cuda
