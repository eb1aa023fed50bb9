// The nested clusters of one head: leaves by k-means over the keys, segment by segment, and the levels above over all
// leaves.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/core/tensor.hpp"
#include "lib/index/build.hpp"
#include "lib/index/layout.hpp"

namespace squeeze {

// Consecutive clustered tokens [begin, end) and the number of leaves that they are clustered into.
struct Segment {
  int64_t begin = 0, end = 0;
  int64_t n_leaves = 0;
};

// Cuts n_keys keys every `length` keys (0: not at all); what is left at the end is a segment of its own from half a
// length on, otherwise it joins the last. Leaves are dealt out by size, n_leaves together, at least one each: fewer
// leaves than segments make longer segments. n_leaves in [1, n_keys].
std::vector<Segment> cut_segments(int64_t n_keys, int64_t n_leaves, int64_t length);

// keys: [n_clustered, head_dim], any type, finite; counts: clusters per level, coarsest first (cluster_counts). A level
// may end up with fewer clusters, never with more. Same result for any number of threads.
NestedClusters cluster_keys(TensorView keys, const std::vector<int64_t>& counts, const IndexOptions& options);

// The means, f32 [n_clusters, dim], of the rows of each cluster, summed in float64 in row order. rows: [n, dim].
Tensor cluster_means(TensorView rows, const std::vector<int32_t>& cluster_of_row, int32_t n_clusters);

}  // namespace squeeze
