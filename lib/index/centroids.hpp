// Centroids of k-means: where they begin, each point's nearest one, and their move to the means of their points.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/core/tensor.hpp"
#include "lib/index/kmeans.hpp"

namespace squeeze {

struct Centroids {
  Metric metric = Metric::cosine;
  Tensor rows;                 // f32 [n, dim]
  std::vector<float> offsets;  // [n] |row|^2 / 2; empty for cosine

  int64_t size() const { return rows.size(0); }
  const float* offsets_or_null() const { return offsets.empty() ? nullptr : offsets.data(); }
};

// Each point's centroid, and its score there: dot - offset, the largest for the nearest.
struct Assignment {
  std::vector<int32_t> nearest;  // [n_points]
  std::vector<float> score;      // [n_points]

  explicit Assignment(int64_t n_points)
      : nearest(static_cast<size_t>(n_points), -1), score(static_cast<size_t>(n_points)) {}
};

// Rows by the group they are in: group g has the rows [first[g], first[g + 1]) of `rows`, ascending.
struct Groups {
  std::vector<int32_t> first;  // [n_groups + 1]
  std::vector<int32_t> rows;

  Groups(std::span<const int32_t> group_of_row, int64_t n_groups);
  std::span<const int32_t> operator[](int64_t g) const;
};

Centroids centroids_at(Tensor rows, Metric metric);

// Centroids at n different points, drawn at random.
Centroids draw_centroids(TensorView points, int64_t n, Metric metric, uint64_t seed);

// Those numbers of the centroids.
Centroids some_of(const Centroids& centroids, std::span<const int32_t> numbers);

// Scores every centroid for every point; the lowest number on a tie. Same result for any number of threads.
void assign_all(TensorView points, const Centroids& centroids, Assignment& out);

// The same for some of the points, entries `rows` of out; centroid j is called numbers[j] (empty: j).
void assign_rows(TensorView points, std::span<const int32_t> rows, const Centroids& centroids,
                 std::span<const int32_t> numbers, Assignment& out);

// Moves each centroid to the mean of its points (cosine: to its direction), weighted and summed in float64. One without
// points takes half of the cluster of the largest spread. Same result for any number of threads.
void move_to_means(TensorView points, std::span<const float> weights, std::span<const int32_t> nearest,
                   Centroids& centroids);

}  // namespace squeeze
