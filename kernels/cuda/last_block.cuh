// The last of several blocks to arrive, which finds what the others wrote.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

// By all threads of each of n_blocks blocks, after their writes to global memory: true in the block that arrives last.
// The counter is zero before the first arrival and after the last. shared: one number in shared memory.
__device__ inline bool arrives_last(int32_t* counter, int n_blocks, int32_t* shared) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *shared = atomicAdd(counter, 1) == n_blocks - 1;
    if (*shared) *counter = 0;
    __threadfence();
  }
  __syncthreads();
  return *shared != 0;
}

}  // namespace squeeze::cuda
