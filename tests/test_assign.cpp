// Tests of assign: every table against double products, ties, NaN.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/kernel_cases.hpp"

namespace squeeze {
namespace {

using namespace test;

TEST_SUITE("assign") {
  TEST_CASE("assign finds a best centroid and its score") {
    std::mt19937 rng(7);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t dim : {1, 3, 8, 17, 64, 80, 128}) {
        for (const int64_t n_points : {0, 1, 15, 16, 17, 33, 130}) {
          const int64_t n_centroids = n_points % 23 + dim % 5;  // may be zero
          const Stored points(DType::f32, n_points * dim, 1, rng), centroids(DType::f32, n_centroids * dim, 1, rng);
          const std::vector<float> offsets = random_floats(n_centroids, rng);
          const bool with_offsets = dim % 2 == 0;
          std::vector<int32_t> nearest(static_cast<size_t>(n_points), 99);
          std::vector<float> best(static_cast<size_t>(n_points));
          table->assign({static_cast<const float*>(points.data()), n_points,
                         static_cast<const float*>(centroids.data()), n_centroids, dim,
                         with_offsets ? offsets.data() : nullptr, nearest.data(), best.data()});
          for (int64_t i = 0; i < n_points; ++i) {
            const int32_t chosen = nearest[static_cast<size_t>(i)];
            const float found = best[static_cast<size_t>(i)];
            if (n_centroids == 0) {
              CHECK(chosen == -1);
              continue;
            }
            REQUIRE(chosen >= 0);
            REQUIRE(chosen < n_centroids);
            for (int64_t j = 0; j < n_centroids; ++j) {
              const Dot d = dot(points, i * dim, centroids, j * dim, dim);
              const double offset = with_offsets ? double{offsets[static_cast<size_t>(j)]} : 0;
              const double bound = static_cast<double>(dim + 1) * kUnit * (d.size + std::abs(offset));
              CHECK(double{found} >= d.value - offset - bound);
              if (j == chosen) CHECK(near(found, d.value - offset, bound));
            }
          }
        }
      }
    }
  }

  TEST_CASE("assign: the lowest index wins a tie, NaN never wins, a point's result depends on the point only") {
    std::mt19937 rng(8);
    const int64_t dim = 24, n_points = 70, n_centroids = 61;
    std::vector<float> points = random_floats(n_points * dim, rng);
    std::vector<float> centroids = random_floats(n_centroids * dim, rng);
    for (int64_t j = 40; j < n_centroids; ++j) {  // 40.. repeat 0..
      std::copy_n(centroids.begin() + (j - 40) * dim, dim, centroids.begin() + j * dim);
    }
    std::fill_n(centroids.begin() + 39 * dim, dim, kNan);
    std::fill_n(points.begin() + 5 * dim, dim, kNan);
    for (const Kernels* table : tables_under_test()) {
      std::vector<int32_t> nearest(n_points), alone(n_points);
      std::vector<float> best(n_points), best_alone(n_points);
      table->assign(
          {points.data(), n_points, centroids.data(), n_centroids, dim, nullptr, nearest.data(), best.data()});
      for (size_t i = 0; i < n_points; ++i) {
        CHECK(nearest[i] < 39);
        CHECK((nearest[i] == -1) == (i == 5));
        table->assign(
            {points.data() + i * dim, 1, centroids.data(), n_centroids, dim, nullptr, &alone[i], &best_alone[i]});
      }
      CHECK(alone == nearest);
      CHECK(best_alone == best);
    }
  }
}

}  // namespace
}  // namespace squeeze
