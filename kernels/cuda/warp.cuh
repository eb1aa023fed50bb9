// Sums over the lanes of a warp, in a fixed order.
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

}  // namespace squeeze::cuda
