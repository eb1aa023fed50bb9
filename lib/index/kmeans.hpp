// K-means over the keys of one head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

enum class Metric { cosine, l2 };

struct KmeansOptions {
  Metric metric = Metric::cosine;
  int iterations = 10;
  uint64_t seed = 1;
  bool spread_seeds = false;  // begin with points far from one another, not with any
  bool exact = false;         // score every centroid for every point, however many there are
  bool cuda = false;          // on the CUDA device: by cosine, dim 64, 96, 128 or 256
};

// A partition of n points into non-empty clusters.
struct Partition {
  std::vector<int32_t> cluster_of;  // [n_points]
  int32_t n_clusters = 0;
};

// Partitions `points`, f32 [n_points, dim] and finite, into at most n_clusters clusters; clusters that end up empty
// (duplicate points) are dropped. Cosine: the points' directions are clustered, with unit centroids; a zero vector
// stays zero. weights: per point, positive; empty: all one. The points are taken over
// and rescaled. Throws if n_clusters is not in [1, n_points], or if the device cannot do it. Same result for any number
// of threads; on a CUDA device another one than on the CPU (it compares points and centroids in bf16).
Partition kmeans(Tensor points, std::span<const float> weights, int64_t n_clusters, const KmeansOptions& options);

}  // namespace squeeze
