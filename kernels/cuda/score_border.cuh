// The border of a top-k selection: which score the best items, as long as they hold at most so many keys, reach down
// to. A radix select over the bits of scores, which are not negative, so that their bits ascend with them.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

// The largest sum of the rows of one head: rows r with equal r % max_heads. share(r): what row r adds.
template <class Share>
__device__ float group_score(int group, int max_heads, const Share& share) {
  float best = 0.0f;
  for (int head = 0; head < max_heads; ++head) {
    float score = 0.0f;
    for (int row = head; row < group; row += max_heads) score += share(row);
    best = fmaxf(best, score);
  }
  return best;
}

struct ScoreBorder {
  uint32_t bits = 0;  // items above it are kept, items below it are not, items at it in their order as long as they fit
  int32_t n_left = 0;  // keys that items at the border may hold
  bool all = false;    // everything fits
  bool none_above = false;
};

inline constexpr int kHistogramBins = 2048;

struct BorderSpace {  // shared memory
  int32_t bins[kHistogramBins];
  int32_t bin, above;
};

// Finds the highest bin at which `above` plus the bins from the top down exceeds max_keys; space.bin = -1: none. By one
// warp.
__device__ inline void find_bin(BorderSpace& space, int max_keys) {
  constexpr int kOwn = kHistogramBins / kWarpSize;  // lane 0 holds the highest bins
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int top = kHistogramBins - 1 - lane * kOwn;
  int own = 0;
  for (int i = 0; i < kOwn; ++i) own += space.bins[top - i];
  int scan = own;
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const int below = __shfl_up_sync(kAllLanes, scan, distance);
    if (lane >= distance) scan += below;
  }
  int above = space.above + scan - own;
  const unsigned over = __ballot_sync(kAllLanes, above + own > max_keys);
  __syncwarp();
  if (over == 0) {
    if (lane == 0) space.bin = -1;
    return;
  }
  int first = 0;
  while (!(over >> first & 1u)) ++first;
  if (lane != first) return;
  int bin = top;
  while (above + space.bins[bin] <= max_keys) above += space.bins[bin--];
  space.bin = bin;
  space.above = above;
}

// By all threads of the block. score_of(i), size_of(i): of item i < n; sizes positive, together below 2^31.
template <class ScoreOf, class SizeOf>
__device__ ScoreBorder find_border(int n, int max_keys, const ScoreOf& score_of, const SizeOf& size_of,
                                   BorderSpace& space) {
  const int thread = static_cast<int>(threadIdx.x), n_threads = static_cast<int>(blockDim.x);
  uint32_t prefix = 0;
  if (thread == 0) space.above = 0;
  // The sign bit is 0; 11, 11 and 9 bits follow.
  constexpr int kShifts[] = {20, 9, 0};
  for (int round = 0; round < 3; ++round) {
    const int shift = round == 0 ? kShifts[0] : round == 1 ? kShifts[1] : kShifts[2];
    const int bits = round < 2 ? 11 : 9;
    for (int i = thread; i < kHistogramBins; i += n_threads) space.bins[i] = 0;
    __syncthreads();
    for (int i = thread; i < n; i += n_threads) {
      const uint32_t score = __float_as_uint(score_of(i));
      if (score >> (shift + bits) == prefix) atomicAdd(&space.bins[score >> shift & ((1u << bits) - 1)], size_of(i));
    }
    __syncthreads();
    if (thread < kWarpSize) find_bin(space, max_keys);
    __syncthreads();
    if (space.bin < 0) return {0, 0, true, false};
    prefix = prefix << bits | static_cast<uint32_t>(space.bin);
  }
  return {prefix, max_keys - space.above, false, space.above == 0};
}

}  // namespace squeeze::cuda
