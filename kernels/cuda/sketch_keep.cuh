// The second and third phase of a sketch lookup: which keys are kept, from the weights of the first.
#pragma once

#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/sketch_space.cuh"
#include "kernels/cuda/warp.cuh"

namespace squeeze::cuda {

struct SketchKeepSpace {  // shared memory
  float factor[16];       // per query row: 1 / (the sum of the weights times the number of rows of a head, or of all)
  float miss[16];         // per squared scale of a sketch: what misses add to the logarithm of an exponential's mean
  BorderSpace border;
  ScanSpace scan;
};

// Scores of the clustered keys of one work from their weights.
struct KeyScores {
  const uint16_t* weights;  // of the first head
  int64_t n_clustered;
  int group, max_heads;
  const float* factor;

  __device__ float weight(int head, int64_t key) const { return unpack_low(weights[head * n_clustered + key], BF16{}); }
  __device__ float operator()(int64_t key) const {
    return group_score(group, max_heads, [&](int row) { return weight(row, key) * factor[row]; });
  }
};

// Sets shared.factor: the blocks' sums, in their order, and what was dropped before. Ends with a barrier.
__device__ inline KeyScores key_scores(const SketchLookupArgs& a, const SketchSpace& space, const SketchPart& part,
                                       SketchKeepSpace& shared) {
  const int head = static_cast<int>(threadIdx.x);
  if (head < a.group) {
    const int64_t at = static_cast<int64_t>(part.work) * a.group + head;
    const float max = a.dropped[2 * at];
    float sum = max == -INFINITY ? 0.0f : a.dropped[2 * at + 1] * exp2_fast((max - a.top_logits[at]) * kLog2E);
    for (int b = part.blocks.first; b <= part.blocks.last; ++b) {
      sum += space.sums[(static_cast<int64_t>(b) + part.work) * a.group + head];
    }
    shared.factor[head] = 1.0f / (sum * static_cast<float>(a.group / a.max_heads));
  }
  __syncthreads();
  return {space.weights + static_cast<int64_t>(part.work) * a.group * a.n_clustered, a.n_clustered, a.group,
          a.max_heads, shared.factor};
}

__device__ inline void count_scores(const SketchLookupArgs& a, const SketchSpace& space, const SketchPart& part,
                                    SketchKeepSpace& shared) {
  const int thread = static_cast<int>(threadIdx.x), n_threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < kHistogramBins; i += n_threads) shared.border.bins[i] = 0;
  const KeyScores score = key_scores(a, space, part, shared);
  const int lane = thread % kWarpSize;
  for (int position = part.begin + thread / kWarpSize; position < part.end; position += n_threads / kWarpSize) {
    const SketchLeaf leaf = SketchLeaf::at(a, part.work, position);
    for (int i = lane; i < leaf.n_keys; i += kWarpSize) {
      atomicAdd(&shared.border.bins[score_bin(a, score(leaf.first_key + i))], 1);
    }
  }
  __syncthreads();
  int32_t* out = space.histograms + static_cast<int64_t>(part.slot) * kHistogramBins;
  for (int i = thread; i < kHistogramBins; i += n_threads) out[i] = shared.border.bins[i];
  __syncthreads();
}

// What a work keeps, and what of it lies in the blocks before this one.
struct KeptKeys {
  int border;  // scores in higher bins are kept, of those in this one the first n_left
  int n_left;
  int total;
  int n_candidates;
  int above_before, ties_before;
};

// Of n_candidates keys, whose histogram is in `bins`.
__device__ inline int most_keys(const SketchLookupArgs& a, int work, int n_candidates, const int32_t* bins) {
  if (a.by_threshold) return bins[kAboveThreshold];
  const int head = work % a.n_kv_heads;
  int64_t most = 0;
  if (a.max_keys_of) {
    most = a.max_keys_of[head];
  } else {
    const int64_t bytes = a.bytes_of ? a.bytes_of[head] : a.bytes;
    most = (bytes - static_cast<int64_t>(n_candidates) * a.sketch_bytes) / a.key_bytes;
  }
  return most < 0 ? 0 : most < n_candidates ? static_cast<int>(most) : n_candidates;
}

// By all threads; shared.border.bins becomes the whole work's histogram.
__device__ inline KeptKeys kept_keys(const SketchLookupArgs& a, const SketchSpace& space, const SketchPart& part,
                                     SketchKeepSpace& shared) {
  const int thread = static_cast<int>(threadIdx.x), n_threads = static_cast<int>(blockDim.x);
  const int32_t* first = space.histograms + (static_cast<int64_t>(part.blocks.first) + part.work) * kHistogramBins;
  const int n_blocks = part.blocks.last - part.blocks.first + 1;
  const int n_before = static_cast<int>(blockIdx.x) - part.blocks.first;
  int own = 0;
  for (int i = thread; i < kHistogramBins; i += n_threads) {
    int sum = 0;
    for (int b = 0; b < n_blocks; ++b) sum += first[b * kHistogramBins + i];
    shared.border.bins[i] = sum;
    own += sum;
  }
  if (thread == 0) shared.border.above = 0;
  const auto n_candidates = static_cast<int>(block_scan(own, shared.scan).total);
  const int max_keys = most_keys(a, part.work, n_candidates, shared.border.bins);
  if (thread < kWarpSize) find_bin(shared.border, max_keys);
  __syncthreads();
  KeptKeys kept{shared.border.bin, max_keys - shared.border.above, max_keys, n_candidates, 0, 0};
  int64_t before = 0;  // above the border, and, in the upper half, at it
  for (int i = thread; i < kHistogramBins; i += n_threads) {
    if (i < kept.border) continue;
    for (int b = 0; b < n_before; ++b) {
      before += static_cast<int64_t>(first[b * kHistogramBins + i]) << (i == kept.border ? 32 : 0);
    }
  }
  before = block_scan(before, shared.scan).total;
  kept.above_before = static_cast<int>(before & 0xffffffff);
  kept.ties_before = static_cast<int>(before >> 32);
  return kept;
}

__device__ inline void set_misses(const SketchLookupArgs& a, int work, SketchKeepSpace& shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int head = static_cast<int>(threadIdx.x) / kWarpSize; head < a.group;
       head += static_cast<int>(blockDim.x) / kWarpSize) {
    const float* query = a.queries + (static_cast<int64_t>(work) * a.group + head) * a.head_dim;
    float squares = 0.0f;
    for (int c = lane; c < a.head_dim; c += kWarpSize) squares += query[c] * query[c];
    squares = warp_sum(squares);
    if (lane == 0) shared.miss[head] = 0.5f * a.scale * a.scale * squares * a.error[work % a.n_kv_heads];
  }
  __syncthreads();
}

// The keys of one leaf, by one warp.
class LeafKeeper {
 public:
  __device__ LeafKeeper(const SketchLookupArgs& args, const SketchPart& part, const KeyScores& scores,
                        const KeptKeys& kept)
      : a_(args), part_(part), score_(scores), kept_(kept), lane_(static_cast<int>(threadIdx.x) % kWarpSize) {}

  // Keys above the border, and, in the upper half, at it.
  __device__ int64_t count(const SketchLeaf& leaf) const {
    int64_t n = 0;
    for (int first = 0; first < leaf.n_keys; first += kWarpSize) {
      const int bin = bin_of(leaf, first + lane_);
      n += __popc(__ballot_sync(kAllLanes, bin > kept_.border));
      n += static_cast<int64_t>(__popc(__ballot_sync(kAllLanes, bin == kept_.border))) << 32;
    }
    return n;
  }

  // Writes the rows that are kept, given the work's keys above and at the border before this leaf, and what is lost.
  __device__ void keep(const SketchLeaf& leaf, int position, int above, int ties, const SketchKeepSpace& shared,
                       float squared_scale) const {
    int32_t* rows = a_.rows + part_.work * a_.rows_stride + a_.n_sinks;
    int at = above + (ties < kept_.n_left ? ties : kept_.n_left), n_kept = 0;
    float lost[16];
#pragma unroll
    for (int head = 0; head < 16; ++head) lost[head] = 0.0f;
    const unsigned below = (1u << lane_) - 1;
    for (int first = 0; first < leaf.n_keys; first += kWarpSize) {
      const int i = first + lane_;
      const int bin = bin_of(leaf, i);
      const unsigned tie_mask = __ballot_sync(kAllLanes, bin == kept_.border);
      const bool tie_kept = bin == kept_.border && ties + __popc(tie_mask & below) < kept_.n_left;
      const bool keep = i < leaf.n_keys && (bin > kept_.border || tie_kept);
      const unsigned kept_mask = __ballot_sync(kAllLanes, keep);
      if (keep) rows[at + __popc(kept_mask & below)] = static_cast<int32_t>(leaf.first_key) + i + a_.n_sinks;
      if (a_.rest && !keep && i < leaf.n_keys) {
#pragma unroll
        for (int head = 0; head < 16; ++head) {
          if (head < a_.group) lost[head] += score_.weight(head, leaf.first_key + i);
        }
      }
      ties += __popc(tie_mask);
      at += __popc(kept_mask);
      n_kept += __popc(kept_mask);
    }
    if (a_.rest) write_rest(leaf, position, n_kept < leaf.n_keys, lost, shared, squared_scale);
  }

 private:
  __device__ int bin_of(const SketchLeaf& leaf, int i) const {
    return i < leaf.n_keys ? score_bin(a_, score_(leaf.first_key + i)) : -2;
  }

  __device__ void write_rest(const SketchLeaf& leaf, int position, bool any, float (&lost)[16],
                             const SketchKeepSpace& shared, float squared_scale) const {
    const int64_t at = a_.n_rest[part_.work] + position;
    if (lane_ == 0) a_.rest[part_.work * a_.rest_stride + at] = leaf.number + a_.rest_offset;
#pragma unroll
    for (int head = 0; head < 16; ++head) {
      if (head >= a_.group) break;
      const float sum = warp_sum(lost[head]);
      const int64_t row = static_cast<int64_t>(part_.work) * a_.group + head;
      const float logit = a_.top_logits[row] + kLn2 * log2f(sum) + shared.miss[head] * squared_scale;
      if (lane_ == 0) a_.rest_logits[row * a_.rest_stride + at] = any ? logit : -INFINITY;
    }
  }

  const SketchLookupArgs& a_;
  const SketchPart& part_;
  const KeyScores& score_;
  const KeptKeys& kept_;
  int lane_;
};

// Sinks in front, window behind, and the counts; by one block of the work.
__device__ inline void write_pinned(const SketchLookupArgs& a, int work, const KeptKeys& kept, int n_leaves) {
  int32_t* rows = a.rows + work * a.rows_stride;
  const int thread = static_cast<int>(threadIdx.x), n_threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < a.n_sinks; i += n_threads) rows[i] = i;
  for (int i = thread; i < a.n_window; i += n_threads) rows[a.n_sinks + kept.total + i] = a.n_tokens - a.n_window + i;
  if (thread == 0) {
    a.n_rows[work] = a.n_sinks + kept.total + a.n_window;
    if (a.n_candidates) a.n_candidates[work] = kept.n_candidates;
    if (a.rest) a.n_rest_out[work] = a.n_rest[work] + n_leaves;
  }
}

__device__ inline void keep_keys(const SketchLookupArgs& a, const SketchSpace& space, const SketchPart& part,
                                 SketchKeepSpace& shared) {
  const KeyScores score = key_scores(a, space, part, shared);
  set_misses(a, part.work, shared);
  const KeptKeys kept = kept_keys(a, space, part, shared);
  const LeafKeeper keeper(a, part, score, kept);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, n_warps = static_cast<int>(blockDim.x) / kWarpSize;
  int above = kept.above_before, ties = kept.ties_before;
  for (int first = part.begin; first < part.end; first += n_warps) {
    const int position = first + warp;
    const bool present = position < part.end;
    const SketchLeaf leaf = present ? SketchLeaf::at(a, part.work, position) : SketchLeaf{0, 0, 0};
    const int64_t own = keeper.count(leaf);
    const Scanned scanned = block_scan(threadIdx.x % kWarpSize == 0 ? own : 0, shared.scan);
    // Of the warps below: lane 0 of this warp has not added its own yet, the other lanes have.
    const int64_t before = __shfl_sync(kAllLanes, scanned.before, 0);
    if (present) {
      const float squared_scale = space.squared_scales[static_cast<int64_t>(part.work) * a.n_clusters + position];
      keeper.keep(leaf, position, above + static_cast<int>(before & 0xffffffff), ties + static_cast<int>(before >> 32),
                  shared, squared_scale);
    }
    above += static_cast<int>(scanned.total & 0xffffffff);
    ties += static_cast<int>(scanned.total >> 32);
  }
  if (static_cast<int>(blockIdx.x) == part.blocks.first) write_pinned(a, part.work, kept, a.n_leaves[part.work]);
  __syncthreads();  // the next part sets the shared factors anew
}

// Works of which the lookup kept no leaf.
__device__ inline void write_without_leaves(const SketchLookupArgs& a, const WorkSplit& split) {
  for (int work = static_cast<int>(blockIdx.x); work < a.n_works; work += static_cast<int>(gridDim.x)) {
    if (split.first_unit[work] == split.first_unit[work + 1]) write_pinned(a, work, {}, 0);
  }
}

}  // namespace squeeze::cuda
