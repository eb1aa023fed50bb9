// Builds the cluster tree of one layer: k-means per KV head, hierarchy, tree order, value means.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/index/head_index.hpp"
#include "lib/index/kmeans.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

// A number of clusters, as a share of the context's tokens or as a count.
struct ClusterCount {
  double share = 0;   // of n_tokens; used when count is 0
  int64_t count = 0;  // 0: use share

  int64_t of(int64_t n_tokens) const;  // at least 1, rounded to nearest
};

struct IndexOptions {
  std::vector<ClusterCount> levels;  // coarsest first, the last are the leaves; each larger than the one before
  int32_t n_sinks = 4;
  int32_t n_window = 100;
  Metric metric = Metric::cosine;
  int iterations = 10;
  uint64_t seed = 1;
  int64_t segment = 32768;          // clustered tokens whose leaves are their own; 0: the whole context
  bool quantise_centroids = false;  // centroids and value means as i8 with a scale each; else in the type of the keys
  bool quantise_kv = false;         // the same of keys and values, all rows
  bool cuda = false;                // k-means on the CUDA device
  int sketch_group = 0;             // dimensions that four bits of a sketch stand for: 2, 4 or 8; 0: no sketches
  int sign_bits = 0;                // of the sketches of an older file (lib/index/sign_sketches.hpp); not to be built

  bool sketches() const { return sketch_group > 0 || sign_bits > 0; }
};

// The levels above the leaves of a context so long that scoring all leaves would cost more than the keys: each has a
// 24th of the clusters of the one below, until one has at most kMaxScored. Coarsest first; none for a short context.
std::vector<ClusterCount> levels_above(const ClusterCount& leaf, int64_t n_tokens);
// Per upper level: the share of the keys that it should let through, so that at most about kMaxScored clusters of the
// level below are scored; powers of kDefaultUpperKeep where that is less.
std::vector<double> default_upper_keep(const IndexOptions& options, int64_t n_tokens);
// Clusters that a lookup scores per level, about; there is one level more per 24 times the context.
inline constexpr int64_t kMaxScored = 2048;

// Throws, before any work, if the context is shorter than sinks + window + 1, if more clusters than clustered tokens
// are asked for by count, or if the levels do not grow from coarse to fine.
void check_options(const IndexOptions& options, int64_t n_tokens);

// The number of clusters that every level of a head starts from, coarsest first (duplicate keys may leave fewer). A
// share that gives more clusters than there are clustered tokens, or than the level below has, is cut to that number:
// this happens in short contexts only. Throws as check_options does.
std::vector<int64_t> cluster_counts(const IndexOptions& options, int64_t n_tokens);

// keys, values: [n_kv_heads, n_tokens, head_dim], any floating-point dtype; the result has the same dtype, or i8
// with quantise_kv: clusters, means and sketches are those of the rows as they came. Throws if a key or value is
// not finite. The same input and options give the same result for any number of threads.
IndexLayer build_layer(TensorView keys, TensorView values, const IndexOptions& options);

}  // namespace squeeze
