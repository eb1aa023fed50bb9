// Cells of centroids by one iteration of k-means over them; a list of candidates and a matrix product per cell.
#include "lib/index/near_assign.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/kernels.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr double kListLength = 2;  // candidates of a cell, in sqrt(n_centroids)
constexpr double kCellsPerList = 8;
constexpr int64_t kMostToLeast = 10;  // the most points that see all centroids, over the least
constexpr float kFarDistance = 1.3f;  // they are so much farther from theirs than the median point

// Centroids grouped by one iteration of k-means from centres drawn at random.
struct Cells {
  Centroids centres;
  Assignment of_centroid;

  Cells(const Centroids& centroids, int64_t n_cells, uint64_t seed)
      : centres(draw_centroids(centroids.rows, n_cells, centroids.metric, seed)), of_centroid(centroids.size()) {
    assign_all(centroids.rows, centres, of_centroid);
    move_to_means(centroids.rows, {}, of_centroid.nearest, centres);
    assign_all(centroids.rows, centres, of_centroid);
  }

  // All cells, the nearest to `cell` first, itself at the head.
  std::vector<int32_t> around(int64_t cell) const {
    std::vector<float> score(static_cast<size_t>(centres.size()));
    kernels().scores({.queries = centres.rows.f32() + cell * centres.rows.size(1),
                      .n_queries = 1,
                      .rows = centres.rows.data(),
                      .dtype = DType::f32,
                      .n_rows = centres.size(),
                      .dim = centres.rows.size(1),
                      .scale = 1.0f,
                      .out = score.data(),
                      .out_stride = centres.size()});
    for (size_t i = 0; i < centres.offsets.size(); ++i) score[i] -= centres.offsets[i];
    score[static_cast<size_t>(cell)] = INFINITY;
    std::vector<int32_t> order(score.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
    });
    return order;
  }
};

// The centroids of the cells nearest to `cell`, ascending: so many that there are `wanted`, if there are.
std::vector<int32_t> candidates(const Cells& cells, const Groups& members, int64_t cell, size_t wanted) {
  std::vector<int32_t> list;
  for (const int32_t near : cells.around(cell)) {
    if (list.size() >= wanted) break;
    list.insert(list.end(), members[near].begin(), members[near].end());
  }
  std::sort(list.begin(), list.end());
  return list;
}

}  // namespace

NearAssign::NearAssign(TensorView points, int64_t n_clusters, uint64_t seed)
    : points_(points), squares_(static_cast<size_t>(points.size(0))), random_(seed) {
  const double list_length = std::min(kListLength * std::sqrt(static_cast<double>(n_clusters)), double(n_clusters));
  const double share = list_length / static_cast<double>(n_clusters);
  list_length_ = static_cast<size_t>(std::ceil(list_length));
  n_cells_ = static_cast<int64_t>(std::ceil(kCellsPerList / share));
  n_far_ = most_far_ = static_cast<int64_t>(share * static_cast<double>(points.size(0)));
  const int64_t dim = points.size(1);
  parallel_blocks(points.size(0), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* x = points.f32() + i * dim;
      squares_[static_cast<size_t>(i)] = std::inner_product(x, x + dim, x, 0.0f);
    }
  });
}

void NearAssign::operator()(const Centroids& centroids, Assignment& assignment) {
  look_near(centroids, assignment);
  look_far(centroids, assignment);
  is_first_ = false;
}

void NearAssign::look_near(const Centroids& centroids, Assignment& assignment) {
  const Cells cells(centroids, n_cells_, random_());
  if (is_first_) {
    assign_all(points_, cells.centres, assignment);
  } else {
    for (int32_t& own : assignment.nearest) own = cells.of_centroid.nearest[static_cast<size_t>(own)];
  }
  const Groups points_of(assignment.nearest, cells.centres.size());
  const Groups centroids_of(cells.of_centroid.nearest, cells.centres.size());
  parallel_for(cells.centres.size(), [&](int64_t cell) {
    if (points_of[cell].empty()) return;
    const std::vector<int32_t> list = candidates(cells, centroids_of, cell, list_length_);
    assign_rows(points_, points_of[cell], some_of(centroids, list), list, assignment);
  });
}

std::vector<int32_t> NearAssign::worst_fitting(const Assignment& assignment) const {
  std::vector<float> distance(squares_.size());
  for (size_t i = 0; i < distance.size(); ++i) distance[i] = squares_[i] - 2 * assignment.score[i];
  std::vector<float> sorted = distance;
  const auto nth = [&](int64_t n) {
    std::nth_element(sorted.begin(), sorted.begin() + n, sorted.end());
    return sorted[static_cast<size_t>(n)];
  };
  const auto n = std::ssize(distance);
  const float least = std::max(kFarDistance * nth(n / 2), nth(n - 1 - n_far_));
  std::vector<int32_t> rows;
  for (size_t i = 0; i < distance.size(); ++i) {
    if (distance[i] > least) rows.push_back(static_cast<int32_t>(i));
  }
  return rows;
}

void NearAssign::look_far(const Centroids& centroids, Assignment& assignment) {
  const std::vector<int32_t> rows = worst_fitting(assignment);
  const std::vector<int32_t> before = assignment.nearest;
  parallel_blocks(std::ssize(rows), 128, [&](int64_t begin, int64_t end) {
    assign_rows(points_, std::span(rows).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                centroids, {}, assignment);
  });
  int64_t n_moved = 0;
  for (const int32_t i : rows) n_moved += before[static_cast<size_t>(i)] != assignment.nearest[static_cast<size_t>(i)];
  n_far_ = std::clamp(2 * n_moved, most_far_ / kMostToLeast, most_far_);
}

}  // namespace squeeze
