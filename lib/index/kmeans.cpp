// K-means: Faiss runs the algorithm, an assigner behind Faiss' index interface finds each point's nearest centroid.
#include "lib/index/kmeans.hpp"

#include <faiss/Clustering.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/seeding.hpp"

namespace squeeze {
namespace {

constexpr int64_t kPointsPerBlock = 512;

// Holds the centroids of one iteration and answers nearest-centroid searches (k = 1) with kernels().assign.
class Assigner final : public faiss::Index {
 public:
  Assigner(int64_t dim, Metric metric) : faiss::Index(dim, faiss::METRIC_INNER_PRODUCT), metric_(metric) {}

  void add(idx_t n, const float* x) override {
    centroids_.insert(centroids_.end(), x, x + n * d);
    ntotal += n;
    if (metric_ == Metric::cosine) return;
    for (idx_t i = 0; i < n; ++i) {  // nearest = largest x·c - |c|^2 / 2
      double squares = 0;
      for (int c = 0; c < d; ++c) squares += double{x[i * d + c]} * double{x[i * d + c]};
      offsets_.push_back(static_cast<float>(squares / 2));
    }
  }

  void reset() override {
    centroids_.clear();
    offsets_.clear();
    ntotal = 0;
  }

  void search(idx_t n, const float* x, idx_t k, float* distances, idx_t* labels,
              const faiss::SearchParameters*) const override {
    if (k != 1) fail("k-means searches for the nearest centroid only, found k = {}", k);
    parallel_blocks(n, kPointsPerBlock, [&](int64_t begin, int64_t end) {
      int32_t nearest[kPointsPerBlock];
      kernels().assign({.points = x + begin * d,
                        .n_points = end - begin,
                        .centroids = centroids_.data(),
                        .n_centroids = ntotal,
                        .dim = d,
                        .offsets = offsets_.empty() ? nullptr : offsets_.data(),
                        .nearest = nearest,
                        .best = distances + begin});
      for (int64_t i = begin; i < end; ++i) {
        if (nearest[i - begin] < 0) fail("point {} has no nearest centroid: its coordinates are not finite", i);
        labels[i] = nearest[i - begin];
      }
    });
  }

 private:
  Metric metric_;
  std::vector<float> centroids_;  // [ntotal, d]
  std::vector<float> offsets_;    // [ntotal], or empty for cosine
};

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
  const int exponent = std::ilogb(largest) + 1;
  for (int64_t i = 0; i < points.n_elements(); ++i) points.f32()[i] = std::ldexp(points.f32()[i], -exponent);
}

// Weights of mean one: Faiss splits clusters with a probability that assumes they sum to the number of points.
std::vector<float> normalised(std::span<const float> weights) {
  double sum = 0;
  for (const float w : weights) sum += double{w};
  std::vector<float> out(weights.begin(), weights.end());
  for (float& w : out) w = static_cast<float>(double{w} * static_cast<double>(weights.size()) / sum);
  return out;
}

faiss::ClusteringParameters parameters(const KmeansOptions& options) {
  faiss::ClusteringParameters p;
  p.niter = options.iterations;
  p.spherical = options.metric == Metric::cosine;
  p.min_points_per_centroid = 1;                                // no warning on stderr
  p.max_points_per_centroid = std::numeric_limits<int>::max();  // no subsampling
  p.seed = static_cast<int>(options.seed % std::numeric_limits<int>::max());
  return p;
}

// Renumbers the clusters that have members, in the order of their numbers.
Partition without_empty(const std::vector<faiss::Index::idx_t>& labels, int64_t n_clusters) {
  std::vector<int32_t> number(static_cast<size_t>(n_clusters), 0);
  for (const auto label : labels) number[static_cast<size_t>(label)] = 1;
  Partition result;
  for (int32_t& n : number) n = n ? result.n_clusters++ : -1;
  result.cluster_of.reserve(labels.size());
  for (const auto label : labels) result.cluster_of.push_back(number[static_cast<size_t>(label)]);
  return result;
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

  if (options.metric == Metric::cosine) {
    normalise_rows(points);
  } else {
    scale_to_unit_box(points);
  }
  const std::vector<float> unit_weights = normalised(weights);
  Assigner assigner(dim, options.metric);
  faiss::Clustering clustering(static_cast<int>(dim), static_cast<int>(n_clusters), parameters(options));
  if (options.spread_seeds) {
    const Tensor seeds = spread_seeds(points, weights, n_clusters, options.seed);
    clustering.centroids.assign(seeds.f32(), seeds.f32() + seeds.n_elements());
  }
  clustering.train(n, points.f32(), assigner, weights.empty() ? nullptr : unit_weights.data());

  std::vector<faiss::Index::idx_t> labels(static_cast<size_t>(n));
  std::vector<float> best(static_cast<size_t>(n));
  assigner.search(n, points.f32(), 1, best.data(), labels.data(), nullptr);
  return without_empty(labels, n_clusters);
}

}  // namespace squeeze
