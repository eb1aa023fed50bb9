// Leaves of every segment, numbered one after the other; each level above clusters the means of the one below.
#include "lib/index/cluster_tree.hpp"

#include <algorithm>

#include "kernels/kernels.hpp"
#include "lib/index/kmeans.hpp"

namespace squeeze {
namespace {

std::vector<float> cluster_sizes(const std::vector<int32_t>& cluster_of, int32_t n_clusters) {
  std::vector<float> sizes(static_cast<size_t>(n_clusters), 0.0f);
  for (const int32_t cluster : cluster_of) sizes[static_cast<size_t>(cluster)] += 1;
  return sizes;
}

Partition cluster_leaves(TensorView keys, int64_t n_leaves, const IndexOptions& options) {
  KmeansOptions kmeans_options{options.metric, options.iterations, options.seed};
  kmeans_options.cuda = options.cuda;
  Partition leaves;
  leaves.cluster_of.reserve(static_cast<size_t>(keys.size(0)));
  for (const Segment& segment : cut_segments(keys.size(0), n_leaves, options.segment)) {
    Tensor points = convert(keys.slice(segment.begin, segment.end), DType::f32);
    const Partition own = kmeans(std::move(points), {}, segment.n_leaves, kmeans_options);
    for (const int32_t leaf : own.cluster_of) leaves.cluster_of.push_back(leaves.n_clusters + leaf);
    leaves.n_clusters += own.n_clusters;
  }
  return leaves;
}

}  // namespace

std::vector<Segment> cut_segments(int64_t n_keys, int64_t n_leaves, int64_t length) {
  const int64_t wanted = length > 0 ? std::max<int64_t>(1, (n_keys + length / 2) / length) : 1;
  const int64_t n = std::min(wanted, n_leaves);
  if (n < wanted) length = n_keys / n;
  std::vector<Segment> segments;
  int64_t dealt = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t end = i + 1 == n ? n_keys : (i + 1) * length;
    const int64_t later = n - 1 - i;  // one leaf is left for each
    const auto share =
        static_cast<int64_t>(static_cast<double>(n_leaves) * static_cast<double>(end) / static_cast<double>(n_keys));
    const int64_t upto = i + 1 == n ? n_leaves : std::clamp(share, dealt + 1, n_leaves - later);
    segments.push_back({i * length, end, upto - dealt});
    dealt = upto;
  }
  return segments;
}

Tensor cluster_means(TensorView rows, const std::vector<int32_t>& cluster_of_row, int32_t n_clusters) {
  const int64_t dim = rows.size(1);
  std::vector<double> sums(static_cast<size_t>(n_clusters * dim), 0.0);
  std::vector<int64_t> counts(static_cast<size_t>(n_clusters), 0);
  std::vector<float> row(static_cast<size_t>(dim));
  for (size_t i = 0; i < cluster_of_row.size(); ++i) {
    const int32_t cluster = cluster_of_row[i];
    kernels().to_f32(rows.at(static_cast<int64_t>(i) * dim), rows.dtype(), dim, row.data());
    double* sum = sums.data() + cluster * dim;
    for (int64_t c = 0; c < dim; ++c) sum[c] += double{row[static_cast<size_t>(c)]};
    ++counts[static_cast<size_t>(cluster)];
  }
  Tensor means(DType::f32, {n_clusters, dim});
  for (int64_t i = 0; i < means.n_elements(); ++i) {
    means.f32()[i] =
        static_cast<float>(sums[static_cast<size_t>(i)] / static_cast<double>(counts[static_cast<size_t>(i / dim)]));
  }
  return means;
}

NestedClusters cluster_keys(TensorView keys, const std::vector<int64_t>& counts, const IndexOptions& options) {
  // Seeds drawn at random miss many a small topic: its leaves scatter over others' clusters, and lookups lose them.
  KmeansOptions kmeans_options{options.metric, options.iterations, options.seed, /*spread_seeds=*/true};
  kmeans_options.cuda = options.cuda;
  NestedClusters tree;
  tree.cluster_of.resize(counts.size());
  tree.n_clusters.resize(counts.size());
  Partition leaves = cluster_leaves(keys, counts.back(), options);
  tree.cluster_of.back() = std::move(leaves.cluster_of);
  tree.n_clusters.back() = leaves.n_clusters;
  for (size_t level = counts.size() - 1; level-- > 0;) {
    const auto& below = tree.cluster_of[level + 1];
    const int32_t n_below = tree.n_clusters[level + 1];
    const Partition parents = kmeans(cluster_means(keys, below, n_below), cluster_sizes(below, n_below),
                                     std::min<int64_t>(counts[level], n_below), kmeans_options);
    for (const int32_t child : below) {
      tree.cluster_of[level].push_back(parents.cluster_of[static_cast<size_t>(child)]);
    }
    tree.n_clusters[level] = parents.n_clusters;
  }
  return tree;
}

}  // namespace squeeze
