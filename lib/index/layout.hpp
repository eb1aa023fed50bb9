// Tree order: numbers the clusters and the rows of one head so that every cluster is one run of rows.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/index/head_index.hpp"

namespace squeeze {

// A nested clustering of the clustered tokens, coarsest level first: tokens that share a cluster of one level share
// those of all levels above. No cluster is empty.
struct NestedClusters {
  std::vector<std::vector<int32_t>> cluster_of;  // [n_levels][n_clustered], of clustered token i = token n_sinks + i
  std::vector<int32_t> n_clusters;               // [n_levels]
};

// Renumbers the clusters of every level, in place: children of one cluster become neighbours, in the order of their
// parents (and, among siblings, of their old numbers).
void sort_in_tree_order(NestedClusters& clusters);

// The rows of a head whose clusters are in tree order: token_of_row, and per level first_row and first_child. The
// levels' centroids and value means, and the inertia, are left empty.
HeadIndex lay_out(const NestedClusters& clusters, int32_t n_sinks, int32_t n_window);

// out[row] = in[token_of_row[row]]; in: [n_tokens, dim], out: the same size and type.
void gather_rows(TensorView in, std::span<const int32_t> token_of_row, void* out);

}  // namespace squeeze
