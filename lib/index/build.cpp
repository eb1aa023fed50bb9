// Builds one layer: clusters per head, tree order, the means at every level, and sketches.
#include "lib/index/build.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/calibrate.hpp"
#include "lib/index/cluster_tree.hpp"
#include "lib/index/layout.hpp"
#include "lib/index/quantise_kv.hpp"
#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

void check_finite(TensorView rows, const char* what, int64_t kv_head) {
  const int64_t dim = rows.size(1);
  std::vector<float> row(static_cast<size_t>(dim));
  for (int64_t token = 0; token < rows.size(0); ++token) {
    kernels().to_f32(rows.at(token * dim), rows.dtype(), dim, row.data());
    if (!all_finite(row)) {
      fail("the {} of token {}, KV head {}, is not finite (NaN or infinity); dump the text again", what, token,
           kv_head);
    }
  }
}

// 1 - cosine (a zero vector has cosine 0), or the squared distance.
double distance(const float* x, const float* y, int64_t dim, Metric metric) {
  double product = 0;
  double x_squares = 0;
  double y_squares = 0;
  double squared_distance = 0;
  for (int64_t c = 0; c < dim; ++c) {
    product += double{x[c]} * double{y[c]};
    x_squares += double{x[c]} * double{x[c]};
    y_squares += double{y[c]} * double{y[c]};
    squared_distance += (double{x[c]} - double{y[c]}) * (double{x[c]} - double{y[c]});
  }
  if (metric == Metric::l2) return squared_distance;
  if (x_squares == 0 || y_squares == 0) return 1;
  return std::max(0.0, 1 - product / (std::sqrt(x_squares) * std::sqrt(y_squares)));
}

double mean_distance(TensorView keys, const Tensor& centroids, const std::vector<int32_t>& leaf_of, Metric metric) {
  const int64_t dim = keys.size(1);
  std::vector<float> key(static_cast<size_t>(dim));
  double sum = 0;
  for (size_t i = 0; i < leaf_of.size(); ++i) {
    kernels().to_f32(keys.at(static_cast<int64_t>(i) * dim), keys.dtype(), dim, key.data());
    sum += distance(key.data(), centroids.f32() + leaf_of[i] * dim, dim, metric);
  }
  return sum / static_cast<double>(leaf_of.size());
}

void store_means(const Tensor& centroids, const Tensor& value_means, DType dtype, const IndexOptions& options,
                 Level& level) {
  if (!options.quantise_centroids) {
    level.centroids = convert(centroids, dtype);
    level.value_means = convert(value_means, dtype);
    return;
  }
  QuantisedRows keys = quantise(centroids);
  QuantisedRows values = quantise(value_means);
  level.centroids = std::move(keys.rows);
  level.centroid_scales = std::move(keys.scales);
  level.value_means = std::move(values.rows);
  level.value_scales = std::move(values.scales);
}

HeadIndex build_head(TensorView keys, TensorView values, const IndexOptions& options) {
  const int64_t n_tokens = keys.size(0);
  const TensorView clustered_keys = keys.slice(options.n_sinks, n_tokens - options.n_window);
  const TensorView clustered_values = values.slice(options.n_sinks, n_tokens - options.n_window);
  NestedClusters tree = cluster_keys(clustered_keys, cluster_counts(options, n_tokens), options);
  sort_in_tree_order(tree);
  HeadIndex head = lay_out(tree, options.n_sinks, options.n_window);
  for (size_t level = 0; level < head.levels.size(); ++level) {
    const auto& cluster_of = tree.cluster_of[level];
    const int32_t n_clusters = tree.n_clusters[level];
    const Tensor centroids = cluster_means(clustered_keys, cluster_of, n_clusters);
    if (level + 1 == head.levels.size()) {
      head.inertia = mean_distance(clustered_keys, centroids, cluster_of, options.metric);
    }
    store_means(centroids, cluster_means(clustered_values, cluster_of, n_clusters), keys.dtype(), options,
                head.levels[level]);
  }
  return head;
}

void check_level(const ClusterCount& level, int64_t n_clustered) {
  if (level.count < 0) fail("a level needs at least 1 cluster, found {}", level.count);
  if (level.count == 0 && !(level.share > 0 && level.share <= 1)) {
    fail("a level's share of the tokens must be above 0 and at most 1, found {}", level.share);
  }
  if (level.count > n_clustered) {
    fail(
        "more clusters than keys: {} clusters asked for, {} clustered tokens (the context without its sinks and "
        "window); ask for fewer clusters",
        level.count, n_clustered);
  }
}

// Two shares are compared as shares: in a short context they may round to the same count.
bool grows(const ClusterCount& coarse, const ClusterCount& fine, int64_t n_tokens) {
  if (coarse.count == 0 && fine.count == 0) return coarse.share < fine.share;
  return coarse.of(n_tokens) < fine.of(n_tokens);
}

void check_layer(TensorView keys, TensorView values) {
  if (keys.shape().rank() != 3 || keys.size(2) < 1) {
    fail("keys must be [n_kv_heads, n_tokens, head_dim], found {}", keys.shape().str());
  }
  if (values.shape() != keys.shape() || values.dtype() != keys.dtype()) {
    fail("values must have the shape and type of the keys, {} {}, found {} {}", keys.shape().str(),
         name_of(keys.dtype()), values.shape().str(), name_of(values.dtype()));
  }
}

}  // namespace

std::vector<ClusterCount> levels_above(const ClusterCount& leaf, int64_t n_tokens) {
  constexpr int64_t kFanOut = 24;
  std::vector<ClusterCount> levels;
  for (int64_t n = leaf.of(n_tokens); n > kMaxScored; n /= kFanOut) levels.insert(levels.begin(), {0, n / kFanOut});
  return levels;
}

std::vector<double> default_upper_keep(const IndexOptions& options, int64_t n_tokens) {
  std::vector<double> keep;
  double above = 1;
  for (size_t level = 1; level < options.levels.size(); ++level) {
    const double fits = static_cast<double>(kMaxScored) / static_cast<double>(options.levels[level].of(n_tokens));
    above = std::min(kDefaultUpperKeep * above, fits);
    keep.push_back(above);
  }
  return keep;
}

void check_options(const IndexOptions& options, int64_t n_tokens) {
  if (options.n_sinks < 0 || options.n_window < 0) {
    fail("sinks and window must not be negative, found {} and {}", options.n_sinks, options.n_window);
  }
  if (options.iterations < 1) fail("k-means needs at least 1 iteration, found {}", options.iterations);
  if (const int group = options.sketch_group; group != 0 && group != 2 && group != 4 && group != 8) {
    fail("four bits of a sketch stand for 2, 4 or 8 dimensions (0: no sketches), found {}", group);
  }
  if (options.segment < 0) fail("a segment has at least 1 token (0: the whole context), found {}", options.segment);
  if (options.levels.empty()) fail("an index needs at least one level of clusters, found none");
  if (n_tokens > std::numeric_limits<int32_t>::max()) fail("a context has at most 2^31 - 1 tokens, found {}", n_tokens);
  const int64_t n_pinned = int64_t{options.n_sinks} + options.n_window;
  if (n_tokens < n_pinned + 1) {
    fail(
        "the context has {} tokens, but {} sinks and a window of {} need at least {}; use a longer text or a smaller "
        "window",
        n_tokens, options.n_sinks, options.n_window, n_pinned + 1);
  }
  for (size_t i = 0; i < options.levels.size(); ++i) {
    check_level(options.levels[i], n_tokens - n_pinned);
    if (i > 0 && !grows(options.levels[i - 1], options.levels[i], n_tokens)) {
      fail("a coarse level must have fewer clusters than the level below it, found {} above {} for {} tokens",
           options.levels[i - 1].of(n_tokens), options.levels[i].of(n_tokens), n_tokens);
    }
  }
}

std::vector<int64_t> cluster_counts(const IndexOptions& options, int64_t n_tokens) {
  check_options(options, n_tokens);
  std::vector<int64_t> counts(options.levels.size());
  int64_t most = n_tokens - options.n_sinks - options.n_window;
  for (size_t level = counts.size(); level-- > 0;) {
    most = std::min(most, options.levels[level].of(n_tokens));
    counts[level] = most;
  }
  return counts;
}

IndexLayer build_layer(TensorView keys, TensorView values, const IndexOptions& options) {
  check_layer(keys, values);
  check_options(options, keys.size(1));
  const int64_t n_heads = keys.size(0);
  IndexLayer layer{
      Tensor(keys.dtype(), keys.shape()), Tensor(keys.dtype(), keys.shape()), {}, options.n_sinks, options.n_window};
  layer.heads.resize(static_cast<size_t>(n_heads));
  const auto build = [&](int64_t h) {
    check_finite(keys[h], "key", h);
    check_finite(values[h], "value", h);
    HeadIndex& head = layer.heads[static_cast<size_t>(h)];
    head = build_head(keys[h], values[h], options);
    const int64_t offset = h * keys.size(1) * keys.size(2);
    gather_rows(keys[h], head.token_of_row, layer.keys.at(offset));
    gather_rows(values[h], head.token_of_row, layer.values.at(offset));
    if (options.sketch_group > 0) {
      const TensorView rows = layer.keys[h].slice(options.n_sinks, keys.size(1) - options.n_window);
      head.sketches = sketch_keys(rows, head.levels.back().view(), options.sketch_group);
    }
  };
  if (n_heads >= n_threads()) {
    parallel_for(n_heads, build);
  } else {  // too few heads for all threads: each head's assignment runs on all of them
    for (int64_t h = 0; h < n_heads; ++h) build(h);
  }
  if (options.quantise_kv) quantise_kv(layer);
  return layer;
}

}  // namespace squeeze
