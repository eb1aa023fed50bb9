// Tests of calibration: the quantile functions, and the law that the sparsity asked for is the sparsity measured.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/score_histogram.hpp"
#include "tests/made_model.hpp"

using namespace squeeze;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const std::vector<double> kTargets = {0.5, 0.7, 0.8, 0.9, 0.95};

MadeModel model_of(const std::vector<ClusterCount>& levels, bool structured, int64_t n_queries = 40) {
  return made_model({.index = {.levels = levels, .bits = 0}, .structured = structured, .n_queries = n_queries});
}

}  // namespace

TEST_SUITE("calibration") {
  TEST_CASE("the grid ascends from 0 to below 1 in steps of at most 0.005 and holds the usual targets") {
    const auto& grid = sparsity_grid();
    CHECK(grid.front() == 0);
    CHECK(grid.back() < 1);
    for (size_t i = 1; i < grid.size(); ++i) {
      CHECK(grid[i] > grid[i - 1]);
      CHECK(grid[i] - grid[i - 1] < 0.0050001);
    }
    for (const double target : kTargets) CHECK(std::binary_search(grid.begin(), grid.end(), target));
  }

  TEST_CASE("a quantile function hits its grid points and lies between them") {
    QuantileFunction function;
    for (size_t i = 0; i < sparsity_grid().size(); ++i) {
      function.thresholds.push_back(i < 10 ? -kInfinity : 1e-6f * static_cast<float>(i));
    }
    CHECK(function.at(0) == -kInfinity);
    CHECK(function.at(-1) == -kInfinity);
    CHECK(function.at(0.01) == -kInfinity);
    for (size_t i = 10; i < sparsity_grid().size(); ++i)
      CHECK(function.at(sparsity_grid()[i]) == function.thresholds[i]);
    for (double s = 0.05; s < 1; s += 0.0013) CHECK(function.at(s) <= function.at(s + 0.0013));
    CHECK(function.at(0.5025) == doctest::Approx(std::sqrt(function.at(0.5) * function.at(0.505))));
    CHECK(function.at(1) == function.thresholds.back());
    CHECK_THROWS_AS(function.at(NAN), Error);
    CHECK_THROWS_AS(QuantileFunction{}.at(0.5), Error);
  }

  TEST_CASE("histogram thresholds are the nearest that whole groups of scores allow") {
    ScoreHistogram histogram;
    histogram.add(0.0f, 10);
    histogram.add(1e-30f, 20);
    histogram.add(0.25f, 30);
    histogram.add(1.0f, 30);
    histogram.add_dropped(10);
    const auto t = histogram.thresholds({0, 0.1, 0.14, 0.16, 0.4, 0.69, 0.8, 0.9});
    CHECK(t[0] == -kInfinity);
    CHECK(t[1] == -kInfinity);  // the dropped ones alone
    CHECK(t[2] == -kInfinity);
    CHECK((t[3] >= 0 && t[3] < 1e-30f));
    CHECK((t[4] >= 1e-30f && t[4] < 0.25f));
    CHECK((t[5] >= 0.25f && t[5] < 1.0f));
    CHECK(t[6] == t[5]);
    CHECK(t[7] >= 1.0f);
  }

  TEST_CASE("the sparsity asked for is the sparsity measured, flat and hierarchical") {
    const std::vector<std::vector<ClusterCount>> trees = {{{0, 80}}, {{0, 16}, {0, 80}}, {{0, 8}, {0, 30}, {0, 90}}};
    for (const bool structured : {false, true}) {
      for (const auto& tree : trees) {
        const MadeModel model = model_of(tree, structured);
        const Calibration calibration = model.calibrated();
        CHECK(calibration.blocks.size() == 3);
        CHECK(calibration.n_queries == 40);
        for (const int block_size : {1, 4, 32}) {
          for (const double target : kTargets) {
            CAPTURE(structured);
            CAPTURE(tree.size());
            CAPTURE(block_size);
            CHECK(std::abs(measured_sparsity(model, calibration, target, block_size) - target) <= 0.01);
          }
          for (const double target : {0.123, 0.333, 0.6543, 0.9777}) {  // between grid points
            CHECK(std::abs(measured_sparsity(model, calibration, target, block_size) - target) <= 0.01);
          }
        }
      }
    }
  }

  TEST_CASE("sparsity 0 keeps everything, and more sparsity never keeps more keys of a block") {
    const MadeModel flat = model_of({{0, 60}}, true);
    const MadeModel deep = model_of({{0, 10}, {0, 60}}, true);
    for (const MadeModel* model : {&flat, &deep}) {
      const Calibration calibration = model->calibrated();
      auto last = kept_keys(*model, calibration, 0, 8);
      for (const int64_t n : last) CHECK(n == 800);
      for (double target = 0.3; target < 1; target += 0.05) {  // both sides prune alike: above 1 - upper_keep
        const auto kept = kept_keys(*model, calibration, target, 8);
        for (size_t i = 0; i < kept.size(); ++i) CHECK(kept[i] <= last[i]);
        last = kept;
      }
    }
  }

  TEST_CASE("upper levels prune only where the target keeps less than they let through") {
    const MadeModel model = model_of({{0, 8}, {0, 30}, {0, 90}}, true);
    CalibrationOptions options;
    options.upper_keep = {0.8, 0.5};
    const Calibration calibration = model.calibrated(options);
    const Thresholds wide = calibration.thresholds(0.4, 1);  // keeps 0.6: the middle level would drop too much
    CHECK(wide[0] == -kInfinity);
    CHECK(wide[1] == -kInfinity);
    CHECK(wide[2] == calibration.blocks[0].flat[2].at(0.4));
    const Thresholds narrow = calibration.thresholds(0.6, 1);
    CHECK(narrow[0] == calibration.blocks[0].flat[0].at(1 - 0.8));
    CHECK(narrow[1] == calibration.blocks[0].pruned[1].at(1 - 0.5));
    CHECK(narrow[2] == calibration.blocks[0].pruned[2].at(0.6));
    for (const double target : {0.4, 0.49, 0.51, 0.6}) {
      CHECK(std::abs(measured_sparsity(model, calibration, target, 4) - target) <= 0.01);
    }
    const Calibration standard = model.calibrated();
    CHECK(standard.upper_keep == std::vector<double>{0.75, 0.5625});
  }

  TEST_CASE("block sizes: nearest in ratio, clamped to the queries there are") {
    const MadeModel model = model_of({{0, 60}}, true, 20);
    const Calibration calibration = model.calibrated();
    CHECK(calibration.blocks.size() == 3);
    CHECK(calibration.blocks[2].block_size == 20);
    CHECK(calibration.thresholds(0.9, 1)[0] == calibration.blocks[0].flat[0].at(0.9));
    CHECK(calibration.thresholds(0.9, 2)[0] == calibration.blocks[0].flat[0].at(0.9));
    CHECK(calibration.thresholds(0.9, 3)[0] == calibration.blocks[1].flat[0].at(0.9));
    CHECK(calibration.thresholds(0.9, 8)[0] == calibration.blocks[1].flat[0].at(0.9));
    CHECK(calibration.thresholds(0.9, 10)[0] == calibration.blocks[2].flat[0].at(0.9));
    CHECK(calibration.thresholds(0.9, 100000)[0] == calibration.blocks[2].flat[0].at(0.9));
    CalibrationOptions options;
    options.block_sizes = {64, 20, 50, 20};
    CHECK(model.calibrated(options).blocks.size() == 1);
  }

  TEST_CASE("scores that all tie cannot be split: everything is kept or everything dropped") {
    MadeModel model = model_of({{0, 60}}, false);
    for (Tensor& queries : model.queries) queries = Tensor::zeros(DType::f32, queries.shape());
    const Calibration calibration = model.calibrated();
    CHECK(measured_sparsity(model, calibration, 0, 1) == 0);
    CHECK(measured_sparsity(model, calibration, 0.4, 1) == 0);
    CHECK(measured_sparsity(model, calibration, 0.6, 1) == 1);
  }

  TEST_CASE("the number of threads changes nothing") {
    const MadeModel model = model_of({{0, 10}, {0, 60}}, true);
    const int before = n_threads();
    set_threads(1);
    const Calibration one = model.calibrated();
    set_threads(2);
    const Calibration two = model.calibrated();
    set_threads(before);
    for (size_t i = 0; i < one.blocks.size(); ++i) {
      for (size_t level = 0; level < 2; ++level) {
        CHECK(one.blocks[i].flat[level].thresholds == two.blocks[i].flat[level].thresholds);
        CHECK(one.blocks[i].pruned[level].thresholds == two.blocks[i].pruned[level].thresholds);
      }
    }
  }

  TEST_CASE("what does not fit is refused") {
    const MadeModel good = model_of({{0, 10}, {0, 60}}, true);
    MadeModel bad = model_of({{0, 10}, {0, 60}}, true);
    bad.queries[1].f32()[5] = NAN;
    CHECK_THROWS_WITH_AS(bad.calibrated(), doctest::Contains("layer 1, KV head 0"), Error);
    bad.queries[1] = random_tensor({4, 39, 8}, 1);
    CHECK_THROWS_AS(bad.calibrated(), Error);
    bad.queries[1] = random_tensor({3, 40, 8}, 1);
    CHECK_THROWS_AS(bad.calibrated(), Error);
    bad.queries[0] = Tensor(DType::f32, {4, 0, 8});
    CHECK_THROWS_AS(bad.calibrated(), Error);
    CalibrationOptions options;
    for (const std::vector<double>& keep : {std::vector<double>{0.5, 0.5}, {0.0}, {1.5}, {NAN}}) {
      options.upper_keep = keep;
      CHECK_THROWS_AS(good.calibrated(options), Error);
    }
    options = {};
    options.block_sizes = {0, 8};
    CHECK_THROWS_AS(good.calibrated(options), Error);
    options.block_sizes = {};
    CHECK_THROWS_AS(good.calibrated(options), Error);
    const Calibration calibration = good.calibrated();
    for (const double sparsity : {-0.1, 1.1, double{NAN}}) CHECK_THROWS_AS(calibration.thresholds(sparsity, 1), Error);
    CHECK_THROWS_AS(calibration.thresholds(0.5, 0), Error);
    CHECK_THROWS_AS(Calibration{}.thresholds(0.5, 1), Error);
  }
}
