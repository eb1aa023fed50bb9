// What the kernels of a lookup share: the clusters in play, softmax sums over them, and the workspace.
#pragma once

#include <type_traits>

#include "kernels/cuda/lookup.hpp"
#include "kernels/cuda/rounded_pair.cuh"

namespace squeeze::cuda {

inline constexpr int kMaxLookupBlocks = 256;  // per work

// The clusters in play of one work.
struct LookupItems {
  const int32_t* items;
  const int32_t* first_row;
  int n;

  __device__ LookupItems(const LookupArgs& a, int work)
      : items(a.items ? a.items + static_cast<int64_t>(work) * a.n_clusters : nullptr),
        first_row(a.first_row + static_cast<int64_t>(work % a.n_kv_heads) * (a.n_clusters + 1)),
        n(a.items ? a.n_items[work] : a.n_clusters_of[work % a.n_kv_heads]) {}
  __device__ int cluster(int position) const { return items ? items[position] : position; }
  __device__ int n_keys(int cluster) const { return first_row[cluster + 1] - first_row[cluster]; }
};

// The sum of n exp(logit), kept as a maximum and a sum.
struct ClusterSums {
  float max = -INFINITY, sum = 0.0f;

  __device__ void add(const ClusterSums& other) {
    if (other.max == -INFINITY) return;
    const float top = fmaxf(max, other.max);
    sum = sum * exp2_fast((max - top) * kLog2E) + other.sum * exp2_fast((other.max - top) * kLog2E);
    max = top;
  }
  __device__ void add(float logit, int n) { add({logit, static_cast<float>(n)}); }
  __device__ ClusterSums of_lane(int lane) const {
    return {__shfl_sync(kAllLanes, max, lane), __shfl_sync(kAllLanes, sum, lane)};
  }
};

struct LookupSpace {
  int32_t* arrived;   // [n_works], zero between calls
  float* logits;      // [n_works, group, n_clusters], by position among the clusters in play
  float* scores;      // [n_works, n_clusters]
  ClusterSums* sums;  // [n_works, blocks, group]

  static size_t counters(int n_works) { return (static_cast<size_t>(n_works) + 31) / 32 * 32; }
  static size_t bytes(int n_works, int group, int n_clusters) {
    const auto works = static_cast<size_t>(n_works), heads = static_cast<size_t>(group);
    const auto clusters = static_cast<size_t>(n_clusters);
    return sizeof(float) * (counters(n_works) + works * clusters * (heads + 1)) +
           sizeof(ClusterSums) * works * kMaxLookupBlocks * heads;
  }
  __device__ static LookupSpace of(const LookupArgs& a) {
    LookupSpace space;
    space.arrived = static_cast<int32_t*>(a.workspace);
    space.sums = reinterpret_cast<ClusterSums*>(space.arrived + (a.n_works + 31) / 32 * 32);
    space.logits = reinterpret_cast<float*>(space.sums + static_cast<int64_t>(a.n_works) * kMaxLookupBlocks * a.group);
    space.scores = space.logits + static_cast<int64_t>(a.n_works) * a.group * a.n_clusters;
    return space;
  }
};

}  // namespace squeeze::cuda
