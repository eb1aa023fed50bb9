// Sums over the threads of a block.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

inline constexpr int kMaxWarps = 32;

struct ScanSpace {  // shared memory
  int64_t warp_sums[kMaxWarps + 1];
};

struct Scanned {
  int64_t before, total;  // of the threads below this one; of all
};

// By all threads of the block, of whole warps.
__device__ inline Scanned block_scan(int64_t own, ScanSpace& space) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int n_warps = static_cast<int>(blockDim.x) / kWarpSize;
  int64_t scan = own;
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int64_t below = __shfl_up_sync(kAllLanes, scan, distance);
    if (lane >= distance) scan += below;
  }
  if (lane == kWarpSize - 1) space.warp_sums[warp] = scan;
  __syncthreads();
  if (warp == 0) {
    const int64_t sum = lane < n_warps ? space.warp_sums[lane] : 0;
    int64_t sums = sum;
    for (int distance = 1; distance < kWarpSize; distance *= 2) {
      const int64_t below = __shfl_up_sync(kAllLanes, sums, distance);
      if (lane >= distance) sums += below;
    }
    if (lane < n_warps) space.warp_sums[lane] = sums - sum;
    if (lane == kWarpSize - 1) space.warp_sums[kMaxWarps] = sums;
  }
  __syncthreads();
  // No barrier behind the reading: until the next one, a warp writes only what no other reads.
  return {space.warp_sums[warp] + scan - own, space.warp_sums[kMaxWarps]};
}

}  // namespace squeeze::cuda
