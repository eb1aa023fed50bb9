// Lloyd's algorithm; few clusters are assigned exactly, many by their neighbourhoods.
#include "lib/index/kmeans.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/centroids.hpp"
#include "lib/index/cuda_nearest.hpp"
#include "lib/index/near_assign.hpp"
#include "lib/index/seeding.hpp"

namespace squeeze {
namespace {

constexpr int64_t kPointsPerBlock = 512;
constexpr int64_t kMostExact = 512;  // clusters; with more, scoring all of them is most of the time

void normalise_rows(Tensor& points) {
  const int64_t dim = points.size(1);
  parallel_blocks(points.size(0), kPointsPerBlock, [&](int64_t begin, int64_t end) {
    for (float* x = points.f32() + begin * dim; x != points.f32() + end * dim; x += dim) {
      double squares = 0;
      for (int64_t c = 0; c < dim; ++c) squares += double{x[c]} * double{x[c]};
      if (squares == 0) continue;
      const double inverse = 1 / std::sqrt(squares);
      for (int64_t c = 0; c < dim; ++c) x[c] = static_cast<float>(double{x[c]} * inverse);
    }
  });
}

// Euclidean clusters do not depend on the unit; in this one (a power of two) no squared norm can overflow.
void scale_to_unit_box(Tensor& points) {
  float largest = 0;
  for (int64_t i = 0; i < points.n_elements(); ++i) largest = std::max(largest, std::abs(points.f32()[i]));
  if (largest == 0) return;
  const double scale = std::ldexp(1.0, -std::ilogb(largest) - 1);
  for (int64_t i = 0; i < points.n_elements(); ++i) {
    points.f32()[i] = static_cast<float>(double{points.f32()[i]} * scale);
  }
}

// Renumbers the clusters that have members, in the order of their numbers.
Partition without_empty(const std::vector<int32_t>& cluster_of, int64_t n_clusters) {
  std::vector<int32_t> number(static_cast<size_t>(n_clusters), 0);
  for (const int32_t cluster : cluster_of) number[static_cast<size_t>(cluster)] = 1;
  Partition result;
  for (int32_t& n : number) n = n ? result.n_clusters++ : -1;
  result.cluster_of.reserve(cluster_of.size());
  for (const int32_t cluster : cluster_of) result.cluster_of.push_back(number[static_cast<size_t>(cluster)]);
  return result;
}

using Assign = std::function<void(const Centroids&, Assignment&)>;

Assign make_assign(TensorView points, int64_t n_clusters, const KmeansOptions& options) {
  if (!options.exact && n_clusters > kMostExact) return NearAssign(points, n_clusters, options.seed);
  return [points](const Centroids& centroids, Assignment& out) { assign_all(points, centroids, out); };
}

// Assigns and moves in turn; ends with an assignment, after `iterations` moves or when nothing changes any more.
Assignment iterate(TensorView points, std::span<const float> weights, Centroids centroids, int iterations,
                   const Assign& assign) {
  Assignment assignment(points.size(0));
  assign(centroids, assignment);
  for (int i = 0; i < iterations; ++i) {
    const std::vector<int32_t> before = assignment.nearest;
    move_to_means(points, weights, before, centroids);
    assign(centroids, assignment);
    if (assignment.nearest == before) break;
  }
  return assignment;
}

}  // namespace

Partition kmeans(Tensor points, std::span<const float> weights, int64_t n_clusters, const KmeansOptions& options) {
  const int64_t n = points.size(0);
  const int64_t dim = points.size(1);
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  if (n > kMax || dim < 1 || dim > kMax)
    fail("k-means takes up to 2^31 - 1 points, found shape {}", points.shape().str());
  if (n_clusters < 1 || n_clusters > n) fail("more clusters than keys: {} clusters of {} keys", n_clusters, n);
  if (!weights.empty() && static_cast<int64_t>(weights.size()) != n)
    fail("{} weights for {} points", weights.size(), n);

  if (options.cuda && options.metric != Metric::cosine) fail("k-means on a CUDA device is by cosine only");
  if (options.metric == Metric::cosine) {
    normalise_rows(points);
  } else {
    scale_to_unit_box(points);
  }
  Centroids centroids = options.spread_seeds
                            ? centroids_at(spread_seeds(points, weights, n_clusters, options.seed), options.metric)
                            : draw_centroids(points, n_clusters, options.metric, options.seed);
  if (options.cuda) {
    return without_empty(cuda_nearest(points, weights, std::move(centroids.rows), options.iterations), n_clusters);
  }
  const Assignment found =
      iterate(points, weights, std::move(centroids), options.iterations, make_assign(points, n_clusters, options));
  return without_empty(found.nearest, n_clusters);
}

}  // namespace squeeze
