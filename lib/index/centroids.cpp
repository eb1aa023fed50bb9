// Nearest centroids by kernels().assign; means cluster by cluster, so that the order of a sum depends on nothing else.
#include "lib/index/centroids.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <queue>
#include <random>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kPointsPerBlock = 512;
constexpr int64_t kClustersPerBlock = 64;

float* row(Tensor& rows, int64_t i) { return rows.f32() + i * rows.size(1); }
const float* row(TensorView rows, int64_t i) { return rows.f32() + i * rows.size(1); }

// Rows come in no order that a processor foresees.
void prefetch(TensorView rows, std::span<const int32_t> numbers, size_t at) {
  if (at >= numbers.size()) return;
  const auto* bytes = reinterpret_cast<const char*>(row(rows, numbers[at]));
  for (int64_t b = 0; b < rows.size(1) * 4; b += 64) __builtin_prefetch(bytes + b);
}

Tensor gathered(TensorView rows, std::span<const int32_t> numbers) {
  const int64_t dim = rows.size(1);
  Tensor out(DType::f32, {std::ssize(numbers), dim});
  for (int64_t i = 0; i < out.size(0); ++i) {
    prefetch(rows, numbers, static_cast<size_t>(i) + 4);
    std::memcpy(row(out, i), row(rows, numbers[static_cast<size_t>(i)]), static_cast<size_t>(dim) * sizeof(float));
  }
  return out;
}

void check_nearest(std::span<const int32_t> nearest) {
  for (const int32_t j : nearest) {
    if (j < 0) fail("a point has no nearest centroid: its coordinates are not finite");
  }
}

// |x|^2 / 2: the nearest centroid has the largest dot - offset.
float offset_of(const float* x, int64_t dim) {
  double squares = 0;
  for (int64_t c = 0; c < dim; ++c) squares += double{x[c]} * double{x[c]};
  return static_cast<float>(squares / 2);
}

// The weighted sums of one cluster's points and of their squares, dimension by dimension.
struct Sums {
  std::vector<double> sum, squares;  // [dim]
  double weight = 0;

  Sums(TensorView points, std::span<const int32_t> members, std::span<const float> weights)
      : sum(static_cast<size_t>(points.size(1)), 0.0), squares(sum) {
    for (size_t m = 0; m < members.size(); ++m) {
      const int32_t i = members[m];
      prefetch(points, members, m + 4);
      const double w = weights.empty() ? 1.0 : double{weights[static_cast<size_t>(i)]};
      add(row(points, i), w, std::ssize(sum), sum.data(), squares.data());
      weight += w;
    }
  }

  static void add(const float* x, double w, int64_t dim, double* __restrict to_sum, double* __restrict to_squares) {
    for (int64_t c = 0; c < dim; ++c) {
      to_sum[c] += w * double{x[c]};
      to_squares[c] += w * double{x[c]} * double{x[c]};
    }
  }

  double squared_norm() const { return std::inner_product(sum.begin(), sum.end(), sum.begin(), 0.0); }

  // The sum of squared distances to the mean; 0 where it is nothing but rounding.
  double spread() const {
    const double total = std::accumulate(squares.begin(), squares.end(), 0.0);
    const double left = total - squared_norm() / weight;
    return left > 1e-9 * total ? left : 0;
  }

  void store_mean(Metric metric, float* out) const {
    const double divisor = metric == Metric::cosine ? std::sqrt(squared_norm()) : weight;
    for (size_t c = 0; c < sum.size(); ++c) out[c] = divisor > 0 ? static_cast<float>(sum[c] / divisor) : 0.0f;
  }
};

// Puts the empty centroid beside the full one, a little to the other side of where it was.
void split(Tensor& rows, int32_t full, int32_t empty) {
  constexpr float kStep = 1.0f / 1024;
  for (int64_t c = 0; c < rows.size(1); ++c) {
    const float x = row(rows, full)[c];
    const float step = c % 2 ? -kStep : kStep;
    row(rows, full)[c] = x * (1 - step);
    row(rows, empty)[c] = x * (1 + step);
  }
}

// spread: per cluster; negative where it has no points. Empty centroids stay where they are when nothing has a spread.
void fill_empty(Tensor& rows, const std::vector<double>& spread) {
  using Candidate = std::pair<double, int32_t>;  // spread, cluster
  std::priority_queue<Candidate> widest;
  std::vector<int32_t> empty;
  for (size_t j = 0; j < spread.size(); ++j) {
    if (spread[j] < 0) empty.push_back(static_cast<int32_t>(j));
    if (spread[j] > 0) widest.emplace(spread[j], static_cast<int32_t>(j));
  }
  if (widest.empty()) return;
  for (const int32_t j : empty) {
    const auto [whole, full] = widest.top();
    widest.pop();
    split(rows, full, j);
    widest.emplace(whole / 2, full);
    widest.emplace(whole / 2, j);
  }
}

}  // namespace

Groups::Groups(std::span<const int32_t> group_of_row, int64_t n_groups)
    : first(static_cast<size_t>(n_groups) + 1, 0), rows(group_of_row.size()) {
  for (const int32_t g : group_of_row) ++first[static_cast<size_t>(g) + 1];
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int32_t> next = first;
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[static_cast<size_t>(next[static_cast<size_t>(group_of_row[i])]++)] = static_cast<int32_t>(i);
  }
}

std::span<const int32_t> Groups::operator[](int64_t g) const {
  const auto begin = static_cast<size_t>(first[static_cast<size_t>(g)]);
  return std::span(rows).subspan(begin, static_cast<size_t>(first[static_cast<size_t>(g) + 1]) - begin);
}

Centroids centroids_at(Tensor rows, Metric metric) {
  Centroids centroids{metric, std::move(rows), {}};
  if (metric == Metric::cosine) return centroids;
  for (int64_t j = 0; j < centroids.size(); ++j) {
    centroids.offsets.push_back(offset_of(row(centroids.rows, j), centroids.rows.size(1)));
  }
  return centroids;
}

Centroids draw_centroids(TensorView points, int64_t n, Metric metric, uint64_t seed) {
  std::vector<int32_t> order(static_cast<size_t>(points.size(0)));
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 random(static_cast<uint32_t>(seed % std::numeric_limits<int>::max() + 1));
  for (size_t i = 0; i < static_cast<size_t>(n) && i + 1 < order.size(); ++i) {
    std::swap(order[i], order[i + random() % (order.size() - i)]);
  }
  return centroids_at(gathered(points, std::span(order).first(static_cast<size_t>(n))), metric);
}

Centroids some_of(const Centroids& centroids, std::span<const int32_t> numbers) {
  Centroids some{centroids.metric, gathered(centroids.rows, numbers), {}};
  if (centroids.offsets.empty()) return some;
  for (const int32_t j : numbers) some.offsets.push_back(centroids.offsets[static_cast<size_t>(j)]);
  return some;
}

void assign_all(TensorView points, const Centroids& centroids, Assignment& out) {
  parallel_blocks(points.size(0), kPointsPerBlock, [&](int64_t begin, int64_t end) {
    kernels().assign({.points = row(points, begin),
                      .n_points = end - begin,
                      .centroids = centroids.rows.f32(),
                      .n_centroids = centroids.size(),
                      .dim = points.size(1),
                      .offsets = centroids.offsets_or_null(),
                      .nearest = out.nearest.data() + begin,
                      .best = out.score.data() + begin});
  });
  check_nearest(out.nearest);
}

void assign_rows(TensorView points, std::span<const int32_t> rows, const Centroids& centroids,
                 std::span<const int32_t> numbers, Assignment& out) {
  constexpr size_t kRows = 128;
  int32_t nearest[kRows];
  float best[kRows];
  for (size_t begin = 0; begin < rows.size(); begin += kRows) {
    const auto block = rows.subspan(begin, std::min(kRows, rows.size() - begin));
    kernels().assign({.points = gathered(points, block).f32(),
                      .n_points = std::ssize(block),
                      .centroids = centroids.rows.f32(),
                      .n_centroids = centroids.size(),
                      .dim = points.size(1),
                      .offsets = centroids.offsets_or_null(),
                      .nearest = nearest,
                      .best = best});
    check_nearest(std::span(nearest).first(block.size()));
    for (size_t i = 0; i < block.size(); ++i) {
      const auto j = nearest[i];
      out.nearest[static_cast<size_t>(block[i])] = numbers.empty() ? j : numbers[static_cast<size_t>(j)];
      out.score[static_cast<size_t>(block[i])] = best[i];
    }
  }
}

void move_to_means(TensorView points, std::span<const float> weights, std::span<const int32_t> nearest,
                   Centroids& centroids) {
  const Groups clusters(nearest, centroids.size());
  std::vector<double> spread(static_cast<size_t>(centroids.size()), -1.0);
  parallel_blocks(centroids.size(), kClustersPerBlock, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      if (clusters[j].empty()) continue;
      const Sums sums(points, clusters[j], weights);
      sums.store_mean(centroids.metric, row(centroids.rows, j));
      spread[static_cast<size_t>(j)] = sums.spread();
    }
  });
  fill_empty(centroids.rows, spread);
  centroids = centroids_at(std::move(centroids.rows), centroids.metric);
}

}  // namespace squeeze
