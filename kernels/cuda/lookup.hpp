// The lookup of one level: a group of queries against the centroids of a KV head, then what is kept.
//
// Score of cluster i (arXiv 2411.09688, equation 2; a group's rows by their mean, or heads by the largest): S_i = exp(s
// q·C_i) / sum_j N_j exp(s q·C_j), where the sum runs over the clusters scored and what the levels above dropped: as
// lib/attention/lookup.hpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda {

// All pointers are device memory. A work is one KV head of one request, as in attend_decode.hpp.
struct LookupArgs {
  const float* queries;  // [n_works, group, head_dim]
  int n_works;
  int n_kv_heads;
  int group;     // at most 16
  int head_dim;  // 64, 96, 128 or 256
  float scale;

  // The level.
  const void* centroids;         // [n_kv_heads, n_clusters, head_dim], 16-byte aligned
  const float* centroid_scales;  // [n_kv_heads, n_clusters] if i8, else null
  DType dtype;                   // f16, bf16 or i8
  const int32_t* first_row;      // [n_kv_heads, n_clusters + 1]
  const int32_t* first_child;    // [n_kv_heads, n_clusters + 1], or null: the leaves
  int n_clusters;                // of the head that has most; the arrays' stride
  const int32_t* n_clusters_of;  // [n_kv_heads]

  // What the levels above let through; null: all clusters, and nothing dropped.
  const int32_t* items;  // [n_works, n_clusters]
  const int32_t* n_items;
  const float* dropped;  // [n_works, group, 2]: of the mass dropped so far, maximum (natural logarithm) and sum

  // The rule: a score above `threshold`; or, if max_keys is not negative, the best clusters by score (the lower one
  // first) as long as they hold at most max_keys keys together, of which the best is kept even if it holds more.
  float threshold;
  int max_keys;
  int max_heads = 1;  // rows r of a work whose r % max_heads are equal are one head's: the largest head's mean counts
  const int32_t* max_keys_of = nullptr;  // [n_kv_heads] in place of max_keys; null: max_keys

  // What is kept. Leaves: sinks, rows of the kept clusters and window, ascending. Other levels: their children,
  // ascending.
  int n_sinks, n_window, n_tokens;
  int32_t* kept;  // [n_works, kept_stride] rows, or clusters of the next level
  int64_t kept_stride;
  int32_t* n_kept;  // [n_works]

  // What is dropped; rest null: not wanted. Added behind the n_rest that are there if `items` is set.
  int32_t* rest;       // [n_works, rest_stride] clusters, plus rest_offset
  float* rest_logits;  // [n_works, group, rest_stride]: log N_i + s q·C_i
  int32_t* n_rest;     // [n_works]
  int64_t rest_stride;
  int rest_offset;
  float* dropped_out;  // [n_works, group, 2], for the next level; null: not wanted

  // For the sketches below the leaves (sketch_lookup.hpp); null: not wanted.
  float* cluster_logits;  // [n_works, group, n_clusters], by cluster; of those in play
  float* top_logits;      // [n_works, group], the largest, dropped ones included

  void* workspace;  // lookup_workspace_bytes, zero before the first call; fit for the next call of n_works
};

size_t lookup_workspace_bytes(int n_works, int group, int n_clusters);

// Throws std::invalid_argument for sizes that it does not support.
void lookup(const LookupArgs& args, Stream stream);

}  // namespace squeeze::cuda
