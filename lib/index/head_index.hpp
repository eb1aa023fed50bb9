// The cluster tree of one layer: what squeeze-build computes, the index file holds and the lookup reads.
//
// Rows are the context's tokens in file order: [0, n_sinks) the first tokens, then the clustered tokens in tree order
// (a leaf's rows are contiguous and ascend by token, a coarse cluster's leaves are contiguous), then the last
// n_window tokens. Levels are ordered coarsest first; the last level holds the leaves.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

// One level of one KV head. Owned by a Level or borrowed from a mapped index.
struct LevelView {
  TensorView centroids;                  // [n_clusters, head_dim], mean of the member keys, not normalised
  TensorView value_means;                // [n_clusters, head_dim]
  std::span<const int32_t> first_row;    // [n_clusters + 1]; cluster i holds rows [first_row[i], first_row[i + 1])
  std::span<const int32_t> first_child;  // [n_clusters + 1] clusters of the next level; empty for the leaves

  int64_t n_clusters() const { return static_cast<int64_t>(first_row.size()) - 1; }
  int32_t n_rows(int64_t cluster) const { return first_row[cluster + 1] - first_row[cluster]; }
};

// One KV head: keys and values in row order and its levels.
struct HeadView {
  TensorView keys;                        // [n_tokens, head_dim]
  TensorView values;                      // [n_tokens, head_dim]
  std::span<const int32_t> token_of_row;  // [n_tokens], a permutation
  int32_t n_sinks = 0;
  int32_t n_window = 0;
  std::vector<LevelView> levels;  // at least one

  int64_t n_tokens() const { return keys.size(0); }
  int64_t n_clustered() const { return n_tokens() - n_sinks - n_window; }
};

struct Level {
  Tensor centroids;
  Tensor value_means;
  std::vector<int32_t> first_row;
  std::vector<int32_t> first_child;

  LevelView view() const { return {centroids, value_means, first_row, first_child}; }
};

struct HeadIndex {
  std::vector<int32_t> token_of_row;
  std::vector<Level> levels;
  double inertia = 0;  // mean over clustered tokens of 1 - cosine (or squared distance) to the leaf's centroid
};

struct IndexLayer {
  Tensor keys;    // [n_kv_heads, n_tokens, head_dim] in row order
  Tensor values;  // same
  std::vector<HeadIndex> heads;
  int32_t n_sinks = 0;
  int32_t n_window = 0;

  HeadView head(int kv_head) const;
};

}  // namespace squeeze
