// The assignment step of k-means with many clusters: each point sees the centroids around its own, not all of them.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "lib/index/centroids.hpp"

namespace squeeze {

// Each call groups the centroids into cells, around centroids drawn anew. A point is scored against those of the eight
// or so cells around its own, about 2 sqrt(n_clusters): the points of a cell see the same list, so that the scores are
// one matrix product per cell. The points that fit worst see all centroids, at no more cost: a group that has no
// centroid yet is scattered over others, and the one that some of it have found may be far away from the rest. Few of
// them move: fewer get to see all the next time. Equal points get the same centroid. Same result for any number of
// threads.
class NearAssign {
 public:
  NearAssign(TensorView points, int64_t n_clusters, uint64_t seed);

  // The first call finds each point's cell; the later ones begin at its centroid, and give it no worse one.
  void operator()(const Centroids& centroids, Assignment& assignment);

 private:
  void look_near(const Centroids& centroids, Assignment& assignment);
  void look_far(const Centroids& centroids, Assignment& assignment);
  std::vector<int32_t> worst_fitting(const Assignment& assignment) const;

  TensorView points_;
  std::vector<float> squares_;  // [n_points]
  std::mt19937_64 random_;
  size_t list_length_ = 0;
  int64_t n_cells_ = 0;
  int64_t n_far_ = 0, most_far_ = 0;  // points that the next call lets see all centroids, and that any may
  bool is_first_ = true;
};

}  // namespace squeeze
