// kmeans step by step: nearest centroids and means against double precision, and that the inertia falls.
#include "kernels/cuda/kmeans.hpp"

#include <algorithm>

#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {
namespace {

using cuda::DeviceArray;

struct Setting {
  int n_points = 200, dim = 128, n_clusters = 70;
  bool weighted = false, same = false;
};

struct Result {
  std::vector<float> centroids, best;
  std::vector<int32_t> nearest;
  double inertia() const {
    double sum = 0;
    for (const float x : best) sum += 1 - double{x};
    return sum;
  }
};

class Call {
 public:
  Call(const Setting& setting, uint64_t seed) : s_(setting), random_(seed) {
    std::vector<float> rows = random_.normals(size_t(s_.n_points * s_.dim));
    if (s_.same) {
      for (size_t i = size_t(s_.dim); i < rows.size(); ++i) rows[i] = rows[i % size_t(s_.dim)];
    }
    keys_ = rounded(rows, DType::f16);
    const DeviceArray<uint16_t> keys(keys_), points(keys_.size());
    cuda::normalise_rows(keys.data(), DType::f16, s_.n_points, s_.dim, points.data(), nullptr);
    points_ = points.host();
    for (int i = 0; i < s_.n_points; ++i) weights_.push_back(float(1 + random_.below(50)));
    for (int c = 0; c < s_.n_clusters * s_.dim; ++c) first_.push_back(at(c / s_.dim * 7 % s_.n_points, c % s_.dim));
  }

  void check() {
    check_unit_rows();
    const Result begin = run(0), one = run(1), three = run(3);
    check_nearest(begin, first_);
    check_means(begin, one);
    check_nearest(one, one.centroids);
    if (!s_.same && !s_.weighted) {
      expect(one.inertia() < begin.inertia() && three.inertia() < one.inertia() + 1e-6, "inertia does not fall");
    }
    expect(run(3).centroids == three.centroids, "a second run gives other bits");
  }

 private:
  float at(int point, int c) const { return bf16_to_f32(points_[size_t(point * s_.dim + c)]); }

  Result run(int iterations) const {
    const DeviceArray<uint16_t> points(points_);
    const DeviceArray<float> weights(weights_), centroids(first_);
    const DeviceArray<int32_t> nearest(static_cast<size_t>(s_.n_points));
    const DeviceArray<float> best(static_cast<size_t>(s_.n_points));
    const DeviceArray<char> workspace(std::vector<char>(cuda::kmeans_workspace_bytes(s_.n_clusters, s_.dim), char(-1)));
    cuda::kmeans({.points = points.data(),
                  .weights = s_.weighted ? weights.data() : nullptr,
                  .n_points = s_.n_points,
                  .dim = s_.dim,
                  .n_clusters = s_.n_clusters,
                  .iterations = iterations,
                  .centroids = centroids.data(),
                  .nearest = nearest.data(),
                  .best = best.data(),
                  .workspace = workspace.data()},
                 nullptr);
    return {centroids.host(), best.host(), nearest.host()};
  }

  void check_unit_rows() const {
    for (int i = 0; i < s_.n_points; ++i) {
      double squares = 0, dot = 0, norm = 0;
      for (int c = 0; c < s_.dim; ++c) {
        const double key = double{f16_to_f32(keys_[size_t(i * s_.dim + c)])};
        squares += double{at(i, c)} * double{at(i, c)};
        dot += key * double{at(i, c)};
        norm += key * key;
      }
      expect(std::abs(squares - 1) < 1e-2 && dot / std::sqrt(norm * squares) > 0.9999, "a unit row");
    }
  }

  void check_nearest(const Result& found, const std::vector<float>& centroids) const {
    const std::vector<uint16_t> rows = rounded(centroids, DType::bf16);
    for (int i = 0; i < s_.n_points; ++i) {
      std::vector<double> dots(size_t(s_.n_clusters), 0.0);
      for (int j = 0; j < s_.n_clusters; ++j) {
        for (int c = 0; c < s_.dim; ++c) {
          dots[size_t(j)] += double{at(i, c)} * double{bf16_to_f32(rows[size_t(j * s_.dim + c)])};
        }
      }
      const double best = *std::max_element(dots.begin(), dots.end());
      const int nearest = found.nearest[size_t(i)];
      expect(nearest >= 0 && nearest < s_.n_clusters, "a point without a centroid");
      expect(dots[size_t(nearest)] > best - 1e-5, "not the nearest centroid");
      expect_close("best dot", {&found.best[size_t(i)], 1}, {&best, 1}, 1e-5);
      if (s_.same) expect(nearest == 0, "of equals the lowest");
    }
  }

  void check_means(const Result& before, const Result& after) const {
    std::vector<double> sums(first_.size(), 0.0);
    for (int i = 0; i < s_.n_points; ++i) {
      const double weight = s_.weighted ? double{weights_[size_t(i)]} : 1;
      for (int c = 0; c < s_.dim; ++c)
        sums[size_t(before.nearest[size_t(i)] * s_.dim + c)] += weight * double{at(i, c)};
    }
    for (int j = 0; j < s_.n_clusters; ++j) {
      const auto row = size_t(j * s_.dim);
      double norm = 0;
      for (int c = 0; c < s_.dim; ++c) norm += sums[row + size_t(c)] * sums[row + size_t(c)];
      std::vector<double> expected;
      for (size_t c = 0; c < size_t(s_.dim); ++c) {
        expected.push_back(norm > 0 ? sums[row + c] / std::sqrt(norm) : double{first_[row + c]});
      }
      expect_close("centroid", {after.centroids.data() + row, expected.size()}, expected, 1e-6);
    }
  }

  Setting s_;
  Random random_;
  std::vector<uint16_t> keys_, points_;
  std::vector<float> weights_, first_;
};

void check_setting(const Setting& setting) { Call(setting, 4).check(); }

}  // namespace

std::vector<Case> kmeans_cases() {
  return {
      {"kmeans: dim 128", [] { check_setting({}); }},
      {"kmeans: dim 64, weighted", [] { check_setting({.dim = 64, .weighted = true}); }},
      {"kmeans: dim 96, fewer clusters than a tile",
       [] { check_setting({.n_points = 100, .dim = 96, .n_clusters = 5}); }},
      {"kmeans: dim 256", [] { check_setting({.n_points = 200, .dim = 256, .n_clusters = 65}); }},
      {"kmeans: equal points", [] { check_setting({.n_points = 100, .n_clusters = 66, .same = true}); }},
      {"kmeans: one point", [] { check_setting({.n_points = 1, .n_clusters = 1, .same = true}); }},
  };
}

}  // namespace squeeze::cuda_tests
