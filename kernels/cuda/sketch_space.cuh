// What the blocks of a sketch lookup leave each other between its phases.
#pragma once

#include "kernels/cuda/score_border.cuh"
#include "kernels/cuda/sketch_lookup.hpp"
#include "kernels/cuda/work_split.cuh"

namespace squeeze::cuda {

inline constexpr int kMaxSketchBlocks = 1024;

// Slots: block + work, as work_split.cuh.
struct SketchSpace {
  uint16_t* weights;      // bf16 [n_works, group, n_clustered]: exp(estimate - top logit), of the candidates
  float* squared_scales;  // [n_works, n_clusters], of the kept leaves in their order: the mean of their sketches'
  float* sums;            // [slots, group] of the weights
  int32_t* histograms;    // [slots, kHistogramBins] of the scores

  static size_t slots(int n_works) { return kMaxSketchBlocks + static_cast<size_t>(n_works); }
  static size_t weight_bytes(int n_works, int group, int64_t n_clustered) {
    const size_t n = static_cast<size_t>(n_works) * static_cast<size_t>(group) * static_cast<size_t>(n_clustered);
    return (n * sizeof(uint16_t) + 255) / 256 * 256;
  }
  static size_t bytes(int n_works, int group, int64_t n_clustered, int n_clusters) {
    return weight_bytes(n_works, group, n_clustered) +
           sizeof(float) * (static_cast<size_t>(n_works) * static_cast<size_t>(n_clusters) +
                            slots(n_works) * (static_cast<size_t>(group) + kHistogramBins));
  }
  __host__ __device__ static SketchSpace of(const SketchLookupArgs& a) {
    SketchSpace space;
    space.weights = static_cast<uint16_t*>(a.workspace);
    const int64_t n = static_cast<int64_t>(a.n_works) * a.group * a.n_clustered;
    space.squared_scales = reinterpret_cast<float*>(static_cast<char*>(a.workspace) + (n * 2 + 255) / 256 * 256);
    space.sums = space.squared_scales + static_cast<int64_t>(a.n_works) * a.n_clusters;
    space.histograms =
        reinterpret_cast<int32_t*>(space.sums + (kMaxSketchBlocks + static_cast<int64_t>(a.n_works)) * a.group);
    return space;
  }
};

// The part of one work's leaves that this block deals with.
struct SketchPart {
  int work;
  int begin, end;  // in the work's list of leaves
  Sharers blocks;
  int slot;
};

// One leaf of a work's list.
struct SketchLeaf {
  int number;
  int64_t first_key;  // among the clustered ones
  int n_keys;

  __device__ static SketchLeaf at(const SketchLookupArgs& a, int work, int position) {
    const int32_t* first_row = a.first_row + static_cast<int64_t>(work % a.n_kv_heads) * (a.n_clusters + 1);
    const int leaf = a.leaves[work * a.leaves_stride + position];
    return {leaf, first_row[leaf] - a.n_sinks, first_row[leaf + 1] - first_row[leaf]};
  }
};

// Calls run(part) for each work that this block has leaves of; by all threads alike.
template <class Run>
__device__ void for_parts(const WorkSplit& split, const Run& run) {
  const int block = static_cast<int>(blockIdx.x);
  if (block >= split.n_active) return;
  const int slice_end = split.slice_begin(block + 1);
  for (int unit = split.slice_begin(block); unit < slice_end;) {
    const int work = split.work_of(unit);
    const int first = split.first_unit[work];
    const int end = split.first_unit[work + 1] < slice_end ? split.first_unit[work + 1] : slice_end;
    run(SketchPart{work, unit - first, end - first, sharers(split, work), block + work});
    unit = end;
  }
}

inline constexpr int kAboveThreshold = 1;  // the bin of what is kept by a threshold; the rest is in bin 0

// The bin of a score: whether it is above the threshold, or 32 per octave, from 2^-63 up.
__device__ inline int score_bin(const SketchLookupArgs& a, float score) {
  if (a.by_threshold) return score > a.threshold ? kAboveThreshold : 0;
  const int bin = static_cast<int>(__float_as_uint(score) >> 18) - ((127 - 63) << 5);
  return bin < 0 ? 0 : bin < kHistogramBins ? bin : kHistogramBins - 1;
}

}  // namespace squeeze::cuda
