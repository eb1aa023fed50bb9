// Made-up points to cluster, and how well a partition fits them.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "lib/index/kmeans.hpp"

namespace squeeze {

// f32 [n_points, dim]: a mixture of n_groups Gaussians of unequal weight whose means are as far from one another as
// noise is, so that no group is near another; 0 groups: noise.
inline Tensor clustered_points(int64_t n_points, int64_t dim, int64_t n_groups, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> means(static_cast<size_t>(n_groups * dim));
  for (float& x : means) x = normal(random);
  std::vector<double> group_weights(static_cast<size_t>(n_groups));
  for (double& w : group_weights) w = std::exponential_distribution<double>()(random);
  std::discrete_distribution<int64_t> draw(group_weights.begin(), group_weights.end());
  const float spread = n_groups > 0 ? 0.7f : 1.0f;
  Tensor points(DType::f32, {n_points, dim});
  for (int64_t i = 0; i < n_points; ++i) {
    const float* mean = n_groups > 0 ? means.data() + draw(random) * dim : nullptr;
    for (int64_t c = 0; c < dim; ++c) points.f32()[i * dim + c] = (mean ? mean[c] : 0.0f) + spread * normal(random);
  }
  return points;
}

inline void normalise_points(Tensor& points) {
  const int64_t dim = points.size(1);
  for (float* x = points.f32(); x != points.f32() + points.n_elements(); x += dim) {
    double squares = 0;
    for (int64_t c = 0; c < dim; ++c) squares += double{x[c]} * double{x[c]};
    for (int64_t c = 0; c < dim; ++c) x[c] = static_cast<float>(double{x[c]} / std::sqrt(squares));
  }
}

// The sum of the (weighted) squared distances of the points to the mean of their cluster.
inline double inertia(TensorView points, const Partition& partition, std::span<const float> weights = {}) {
  const auto dim = static_cast<size_t>(points.size(1));
  const auto weight = [&](size_t i) { return weights.empty() ? 1.0 : double{weights[i]}; };
  std::vector<double> means(static_cast<size_t>(partition.n_clusters) * dim, 0.0);
  std::vector<double> total(static_cast<size_t>(partition.n_clusters), 0.0);
  for (size_t i = 0; i < partition.cluster_of.size(); ++i) {
    const auto cluster = static_cast<size_t>(partition.cluster_of[i]);
    for (size_t c = 0; c < dim; ++c) means[cluster * dim + c] += weight(i) * double{points.f32()[i * dim + c]};
    total[cluster] += weight(i);
  }
  for (size_t i = 0; i < means.size(); ++i) means[i] /= total[i / dim];
  double sum = 0;
  for (size_t i = 0; i < partition.cluster_of.size(); ++i) {
    const double* mean = means.data() + static_cast<size_t>(partition.cluster_of[i]) * dim;
    for (size_t c = 0; c < dim; ++c) {
      const double d = double{points.f32()[i * dim + c]} - mean[c];
      sum += weight(i) * d * d;
    }
  }
  return sum;
}

}  // namespace squeeze
