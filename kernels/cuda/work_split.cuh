// Splitting works of very different sizes evenly over the blocks of a grid: all works' units in one sequence, of which
// each block takes an equal slice. A work that several blocks share is finished by the last one to arrive.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

// first_unit: [n_works + 1], in shared memory.
struct WorkSplit {
  const int32_t* first_unit;
  int n_works;
  int n_active;  // blocks that have units; the others have none

  __device__ int n_units() const { return first_unit[n_works]; }
  __device__ int slice_begin(int block) const {
    return static_cast<int>(static_cast<int64_t>(block) * n_units() / n_active);
  }
  // The block whose slice holds a unit.
  __device__ int block_of(int unit) const {
    int block = static_cast<int>(static_cast<int64_t>(unit) * n_active / n_units());
    while (slice_begin(block + 1) <= unit) ++block;
    return block;
  }
  // The work of a unit: works without units are passed over.
  __device__ int work_of(int unit) const {
    int low = 0, high = n_works;  // first_unit[low] <= unit < first_unit[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first_unit[middle] <= unit) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// Blocks [first, last] hold units of a work. A block's partial result of a work lies in slot block + work: along the
// sequence both only grow, so that no two share one.
struct Sharers {
  int first, last;
  __device__ bool alone() const { return first == last; }
};

__device__ inline Sharers sharers(const WorkSplit& split, int work) {
  return {split.block_of(split.first_unit[work]), split.block_of(split.first_unit[work + 1] - 1)};
}

// Fills first_unit from units_of(work), by all threads of the block.
template <class UnitsOf>
__device__ WorkSplit split_work(int n_works, int32_t* first_unit, const UnitsOf& units_of) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if (threadIdx.x < kWarpSize) {
    int sum = 0;
    for (int base = 0; base < n_works; base += kWarpSize) {
      const int own = base + lane < n_works ? units_of(base + lane) : 0;
      int scan = own;
      for (int distance = 1; distance < kWarpSize; distance *= 2) {
        const int below = __shfl_up_sync(kAllLanes, scan, distance);
        if (lane >= distance) scan += below;
      }
      if (base + lane < n_works) first_unit[base + lane] = sum + scan - own;
      sum += __shfl_sync(kAllLanes, scan, kWarpSize - 1);
    }
    if (lane == 0) first_unit[n_works] = sum;
  }
  __syncthreads();
  const int n_units = first_unit[n_works];
  const int n_blocks = static_cast<int>(gridDim.x);
  return {first_unit, n_works, n_units < n_blocks ? n_units : n_blocks};
}

}  // namespace squeeze::cuda
