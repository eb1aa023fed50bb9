// Tree order by counting sorts: clusters by parent, tokens by leaf.
#include "lib/index/layout.hpp"

#include <cstring>
#include <numeric>
#include <span>

namespace squeeze {
namespace {

// begin[v] = number of entries of `values` below v, for v in [0, n]; values are in [0, n).
std::vector<int32_t> first_positions(std::span<const int32_t> values, int32_t n) {
  std::vector<int32_t> begin(static_cast<size_t>(n) + 1, 0);
  for (const int32_t v : values) ++begin[static_cast<size_t>(v) + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  return begin;
}

// The position of every entry after a stable sort by value.
std::vector<int32_t> sorted_positions(std::span<const int32_t> values, int32_t n) {
  std::vector<int32_t> next = first_positions(values, n);
  std::vector<int32_t> position;
  position.reserve(values.size());
  for (const int32_t v : values) position.push_back(next[static_cast<size_t>(v)]++);
  return position;
}

// The cluster of level - 1 that holds each cluster of `level`.
std::vector<int32_t> parents(const NestedClusters& clusters, size_t level) {
  std::vector<int32_t> parent(static_cast<size_t>(clusters.n_clusters[level]));
  const auto& upper = clusters.cluster_of[level - 1];
  const auto& lower = clusters.cluster_of[level];
  for (size_t i = 0; i < lower.size(); ++i) parent[static_cast<size_t>(lower[i])] = upper[i];
  return parent;
}

}  // namespace

void sort_in_tree_order(NestedClusters& clusters) {
  for (size_t level = 1; level < clusters.n_clusters.size(); ++level) {
    const auto number = sorted_positions(parents(clusters, level), clusters.n_clusters[level - 1]);
    for (int32_t& cluster : clusters.cluster_of[level]) cluster = number[static_cast<size_t>(cluster)];
  }
}

HeadIndex lay_out(const NestedClusters& clusters, int32_t n_sinks, int32_t n_window) {
  HeadIndex head;
  const auto& leaf_of = clusters.cluster_of.back();
  const auto n_clustered = static_cast<int32_t>(leaf_of.size());
  head.token_of_row.resize(static_cast<size_t>(n_sinks + n_clustered + n_window));
  std::iota(head.token_of_row.begin(), head.token_of_row.end(), 0);
  const auto position = sorted_positions(leaf_of, clusters.n_clusters.back());
  for (int32_t i = 0; i < n_clustered; ++i) {
    head.token_of_row[static_cast<size_t>(n_sinks + position[static_cast<size_t>(i)])] = n_sinks + i;
  }
  for (size_t level = 0; level < clusters.n_clusters.size(); ++level) {
    Level& out = head.levels.emplace_back();
    out.first_row = first_positions(clusters.cluster_of[level], clusters.n_clusters[level]);
    for (int32_t& row : out.first_row) row += n_sinks;
    if (level + 1 == clusters.n_clusters.size()) break;
    out.first_child = first_positions(parents(clusters, level + 1), clusters.n_clusters[level]);
  }
  return head;
}

void gather_rows(TensorView in, std::span<const int32_t> token_of_row, void* out) {
  const int64_t dim = in.size(1);
  const size_t row_bytes = static_cast<size_t>(dim) * size_of(in.dtype());
  auto* target = static_cast<char*>(out);
  for (const int32_t token : token_of_row) {
    std::memcpy(target, in.at(token * dim), row_bytes);
    target += row_bytes;
  }
}

}  // namespace squeeze
