// One block's selection among the clusters in play of one work, from their logits.
#pragma once

#include "kernels/cuda/block_scan.cuh"
#include "kernels/cuda/lookup_state.cuh"
#include "kernels/cuda/score_border.cuh"

namespace squeeze::cuda {

struct SelectSpace {  // shared memory
  float max[16];      // per query head
  float factor[16];   // 1 / (the sum times the number of rows of a head, or of all)
  ScanSpace scan;
  BorderSpace border;
};

// The denominators of the scores: the blocks' sums, in their order, and what was dropped before.
__device__ inline void sum_up(const LookupArgs& a, int work, const LookupSpace& space, int n_blocks,
                              SelectSpace& shared) {
  const int head = static_cast<int>(threadIdx.x);
  if (head < a.group) {
    ClusterSums all;
    const int64_t at = static_cast<int64_t>(work) * a.group + head;
    if (a.items && a.dropped) all.add({a.dropped[2 * at], a.dropped[2 * at + 1]});
    for (int b = 0; b < n_blocks; ++b) {
      all.add(space.sums[(static_cast<int64_t>(work) * n_blocks + b) * a.group + head]);
    }
    shared.max[head] = all.max;
    shared.factor[head] = 1.0f / (all.sum * static_cast<float>(a.group / a.max_heads));
    if (a.top_logits) a.top_logits[at] = all.max;
  }
  __syncthreads();
}

__device__ inline void score_clusters(const LookupArgs& a, int n, const float* logits, float* scores,
                                      const SelectSpace& shared) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    scores[i] = group_score(a.group, a.max_heads, [&](int row) {
      const float logit = logits[static_cast<int64_t>(row) * a.n_clusters + i];
      return exp2_fast((logit - shared.max[row]) * kLog2E) * shared.factor[row];
    });
  }
  __syncthreads();
}

// Writes the numbers first, first + 1, ... of each lane's item, n of them from `at` on; a warp at a time, so that the
// stores of one item lie together.
__device__ inline void write_runs(int first, int n, int at, int32_t* out) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  unsigned left = __ballot_sync(kAllLanes, n > 0);
  while (left != 0) {
    const int from = 31 - __clz(static_cast<int>(left));
    left &= ~(1u << from);
    const int run_first = __shfl_sync(kAllLanes, first, from), run_n = __shfl_sync(kAllLanes, n, from);
    const int run_at = __shfl_sync(kAllLanes, at, from);
    for (int i = lane; i < run_n; i += kWarpSize) out[run_at + i] = run_first + i;
  }
}

// What the kept and the dropped clusters become.
class SelectionWriter {
 public:
  __device__ SelectionWriter(const LookupArgs& args, int work, const LookupItems& items, const float* logits)
      : a_(args), work_(work), items_(items), logits_(logits), kept_(args.kept + work * args.kept_stride) {
    if (!args.first_child) {
      for (int i = static_cast<int>(threadIdx.x); i < args.n_sinks; i += static_cast<int>(blockDim.x)) kept_[i] = i;
      n_kept_ = args.n_sinks;
    }
    if (args.rest && args.items) n_rest_ = args.n_rest[work];
  }

  // By all threads, for positions begin + threadIdx.x (those below items.n).
  __device__ void add(int position, bool keep, ScanSpace& space) {
    const bool present = position < items_.n;
    const int cluster = present ? items_.cluster(position) : 0;
    const int first = a_.first_child ? child(cluster) : items_.first_row[cluster];
    const int n = !present || !keep ? 0 : (a_.first_child ? child(cluster + 1) : items_.first_row[cluster + 1]) - first;
    const bool drop = present && !keep;
    const Scanned scanned = block_scan(static_cast<int64_t>(n) | (drop ? int64_t{1} << 32 : 0), space);
    write_runs(first, n, n_kept_ + static_cast<int32_t>(scanned.before & 0xffffffff), kept_);
    if (drop && a_.rest) write_rest(position, cluster, n_rest_ + static_cast<int32_t>(scanned.before >> 32));
    n_kept_ += static_cast<int32_t>(scanned.total & 0xffffffff);
    n_rest_ += static_cast<int32_t>(scanned.total >> 32);
  }

  __device__ void finish() {
    const int thread = static_cast<int>(threadIdx.x);
    if (!a_.first_child) {
      for (int i = thread; i < a_.n_window; i += static_cast<int>(blockDim.x)) {
        kept_[n_kept_ + i] = a_.n_tokens - a_.n_window + i;
      }
      n_kept_ += a_.n_window;
    }
    if (thread == 0) {
      a_.n_kept[work_] = n_kept_;
      if (a_.rest) a_.n_rest[work_] = n_rest_;
    }
  }

 private:
  __device__ int child(int cluster) const {
    return a_.first_child[static_cast<int64_t>(work_ % a_.n_kv_heads) * (a_.n_clusters + 1) + cluster];
  }
  __device__ void write_rest(int position, int cluster, int at) const {
    a_.rest[work_ * a_.rest_stride + at] = cluster + a_.rest_offset;
    if (!logits_) return;
    const float log_size = kLn2 * log2f(static_cast<float>(items_.n_keys(cluster)));
    for (int head = 0; head < a_.group; ++head) {
      a_.rest_logits[(static_cast<int64_t>(work_) * a_.group + head) * a_.rest_stride + at] =
          logits_[static_cast<int64_t>(head) * a_.n_clusters + position] + log_size;
    }
  }

  const LookupArgs& a_;
  int work_;
  const LookupItems& items_;
  const float* logits_;
  int32_t* kept_;
  int n_kept_ = 0, n_rest_ = 0;  // the same in all threads
};

// The mass of what is dropped at this level and was above it, per query head. In the order of the threads.
template <class IsKept>
__device__ void sum_dropped(const LookupArgs& a, int work, const LookupItems& items, const float* logits,
                            const IsKept& is_kept) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  for (int head = warp; head < a.group; head += static_cast<int>(blockDim.x) / kWarpSize) {
    ClusterSums own;
    for (int i = lane; i < items.n; i += kWarpSize) {
      if (!is_kept(i)) own.add(logits[static_cast<int64_t>(head) * a.n_clusters + i], items.n_keys(items.cluster(i)));
    }
    for (int other = 1; other < kWarpSize; other *= 2) own.add(own.of_lane(lane ^ other));
    const int64_t at = static_cast<int64_t>(work) * a.group + head;
    if (a.items && a.dropped) own.add({a.dropped[2 * at], a.dropped[2 * at + 1]});
    if (lane == 0) {
      a.dropped_out[2 * at] = own.max;
      a.dropped_out[2 * at + 1] = own.sum;
    }
  }
}

// Keeps by the rule, from scores; these become 1 where a cluster is kept and 0 elsewhere. logits null: no rest_logits.
__device__ inline void keep_clusters(const LookupArgs& a, int work, const LookupItems& items, const float* logits,
                                     float* scores, SelectSpace& shared) {
  const int max_keys = a.max_keys_of ? a.max_keys_of[work % a.n_kv_heads] : a.max_keys;
  const bool by_size = max_keys >= 0;
  ScoreBorder border;
  if (by_size) {
    border = find_border(
        items.n, max_keys, [&](int i) { return scores[i]; }, [&](int i) { return items.n_keys(items.cluster(i)); },
        shared.border);
  }
  SelectionWriter writer(a, work, items, logits);
  int at_border = 0;  // keys of the items at the border so far
  for (int first = 0; first < items.n; first += static_cast<int>(blockDim.x)) {
    const int i = first + static_cast<int>(threadIdx.x);
    bool keep = false;
    if (!by_size) {
      keep = i < items.n && scores[i] > a.threshold;
    } else {
      const uint32_t bits = i < items.n ? __float_as_uint(scores[i]) : 0;
      const bool tie = i < items.n && !border.all && bits == border.bits;
      const int size = tie ? items.n_keys(items.cluster(i)) : 0;
      const Scanned ties = block_scan(size, shared.scan);
      const int before = at_border + static_cast<int>(ties.before);
      const bool best = border.none_above && before == 0 && max_keys > 0;
      keep = i < items.n && (border.all || bits > border.bits || (tie && (before + size <= border.n_left || best)));
      at_border += static_cast<int>(ties.total);
    }
    writer.add(i, keep, shared.scan);
    if (i < items.n) scores[i] = keep ? 1.0f : 0.0f;
  }
  writer.finish();
}

__device__ inline void select_clusters(const LookupArgs& a, int work, const LookupSpace& space, int n_blocks,
                                       SelectSpace& shared) {
  const LookupItems items(a, work);
  const float* logits = space.logits + static_cast<int64_t>(work) * a.group * a.n_clusters;
  float* scores = space.scores + static_cast<int64_t>(work) * a.n_clusters;
  sum_up(a, work, space, n_blocks, shared);
  score_clusters(a, items.n, logits, scores, shared);
  keep_clusters(a, work, items, logits, scores, shared);
  if (!a.dropped_out) return;
  __syncthreads();
  sum_dropped(a, work, items, logits, [&](int i) { return scores[i] != 0.0f; });
}

}  // namespace squeeze::cuda
