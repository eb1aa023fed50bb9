// Tests of calibration with sketches, with every way of choosing together, and with questions; levels by default.
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "lib/core/error.hpp"
#include "tests/made_attention.hpp"
#include "tests/made_model.hpp"

namespace squeeze {
namespace {

constexpr GqaSelect kSelects[] = {GqaSelect::group_mean, GqaSelect::group_max, GqaSelect::per_head};
const std::vector<int64_t> kQuestions = {0, 13, 21};  // of 40 query tokens

const SketchedOptions kFlat = {.levels = {{.count = 80}}, .bits = 1, .quantise = true};
const SketchedOptions kDeep = {.levels = {{.count = 16}, {.count = 80}}, .bits = 2};

CalibrationOptions with(GqaSelect gqa) {
  CalibrationOptions options;
  options.gqa = gqa;
  return options;
}

bool same_tables(const Calibration& a, const Calibration& b) {
  const auto same = [](const QuantileFunction& x, const QuantileFunction& y) { return x.thresholds == y.thresholds; };
  bool all = a.blocks.size() == b.blocks.size();
  for (size_t i = 0; all && i < a.blocks.size(); ++i) {
    const BlockCalibration &x = a.blocks[i], &y = b.blocks[i];
    all = std::equal(x.flat.begin(), x.flat.end(), y.flat.begin(), y.flat.end(), same) &&
          std::equal(x.pruned.begin(), x.pruned.end(), y.pruned.begin(), y.pruned.end(), same) &&
          x.shares.kept == y.shares.kept;
  }
  return all;
}

double mean_of(const std::vector<float>& x, size_t begin, size_t n) {
  return std::accumulate(x.begin() + int64_t(begin), x.begin() + int64_t(begin + n), 0.0) / double(n);
}

}  // namespace

TEST_SUITE("sketch_calibration") {
  TEST_CASE("the sparsity asked for is the sparsity measured, with sketches and every way of choosing together") {
    for (const SketchedOptions& index : {kFlat, kDeep}) {
      const MadeModel model = made_model({.index = index, .group_size = 3});
      for (const GqaSelect gqa : kSelects) {
        const Calibration calibration = model.calibrated(with(gqa));
        CHECK(calibration.sketches);
        CHECK(calibration.gqa == gqa);
        for (const int block_size : {1, 4, 32}) {
          for (const double target : {0.0, 0.3, 0.51, 0.7, 0.9, 0.95, 0.9777}) {
            CAPTURE(index.levels.size());
            CAPTURE(static_cast<int>(gqa));
            CAPTURE(block_size);
            CAPTURE(target);
            CHECK(std::abs(measured_sparsity(model, calibration, target, block_size) - target) <= 0.01);
          }
        }
      }
    }
  }

  TEST_CASE("the same for clusters alone") {
    for (const GqaSelect gqa : {GqaSelect::group_max, GqaSelect::per_head}) {
      const MadeModel model = made_model({.index = {.levels = {{.count = 16}, {.count = 80}}, .bits = 0}});
      const Calibration calibration = model.calibrated(with(gqa));
      CHECK_FALSE(calibration.sketches);
      for (const int block_size : {1, 4, 32}) {
        for (const double target : {0.3, 0.7, 0.95}) {
          CHECK(std::abs(measured_sparsity(model, calibration, target, block_size) - target) <= 0.01);
        }
      }
    }
  }

  TEST_CASE("blocks span no two questions") {
    MadeModel model = made_model({.index = kFlat});
    CalibrationOptions one_run, wide;
    one_run.block_sizes = {1, 4, 32};
    wide.block_sizes = {1, 4, 40};  // as 32: no question is longer than 19 tokens
    const Calibration whole = model.calibrated(one_run);
    model.first_query = {0};
    CHECK(same_tables(model.calibrated(one_run), whole));
    model.first_query = kQuestions;
    const Calibration apart = model.calibrated(one_run);
    CHECK_FALSE(same_tables(apart, whole));
    CHECK(same_tables(apart, model.calibrated(wide)));
    CHECK(apart.blocks[0].flat[0].thresholds == whole.blocks[0].flat[0].thresholds);  // blocks of one token
    for (const int block_size : {1, 4, 32}) {
      for (const double target : {0.3, 0.7, 0.95}) {
        CHECK(std::abs(measured_sparsity(model, apart, target, block_size) - target) <= 0.01);
      }
    }
  }

  TEST_CASE("the number of threads changes nothing") {
    const ThreadsGuard guard;
    MadeModel model = made_model({.index = kDeep});
    model.first_query = kQuestions;
    for (const GqaSelect gqa : kSelects) {
      set_threads(1);
      const Calibration one = model.calibrated(with(gqa));
      for (const int threads : {2, 5}) {
        set_threads(threads);
        CHECK(same_tables(model.calibrated(with(gqa)), one));
      }
    }
  }

  TEST_CASE("upper stages let through their share: half the keys above the sketches") {
    CHECK(made_model({.index = kFlat}).calibrated().upper_keep == std::vector<double>{0.5});
    const MadeModel model = made_model({.index = kDeep});
    CHECK(model.calibrated().upper_keep == std::vector<double>{0.75, 0.5});
    CalibrationOptions options;
    options.upper_keep = {0.8, 0.3};
    const Calibration calibration = model.calibrated(options);
    for (const int block_size : {1, 4, 32}) {
      int64_t n_sketched = 0, n_keys = 0;
      const SelectionRule rule{.rule = Rule::top_p,
                               .thresholds = calibration.pruning(block_size),
                               .top_p = 0.5,
                               .group = {GqaSelect::group_mean, 2}};
      for_each_block(model, block_size, [&](int, int, const HeadView& head, const Tensor& queries, int64_t) {
        n_sketched += select_clusters(head, queries, MadeModel::kScale, rule).n_sketched;
        n_keys += head.n_clustered();
      });
      CHECK(std::abs(double(n_sketched) / double(n_keys) - 0.3) <= 0.01);
    }
    const Thresholds wide = calibration.thresholds(0.6, 1);  // keeps more than the leaves would let through
    CHECK(wide[0] == -INFINITY);
    CHECK(wide[1] == -INFINITY);
    CHECK(wide[2] == calibration.blocks[0].flat[1].at(0.6));
    const Thresholds narrow = calibration.thresholds(0.8, 1);
    CHECK(narrow[1] == calibration.blocks[0].pruned[1].at(0.7));
    CHECK(narrow[2] == calibration.blocks[0].pruned[2].at(0.8));
    options.upper_keep = {0.3, 0.8};
    CHECK_THROWS_AS(model.calibrated(options), Error);
    options.upper_keep = {0.8};
    CHECK_THROWS_WITH_AS(model.calibrated(options), doctest::Contains("each of 2 upper stages"), Error);
  }

  TEST_CASE("heads' shares: what each keeps above one threshold, on average the share asked for") {
    MadeModel model = made_model({.index = kDeep});
    for (int64_t i = 0; i < model.queries[1].n_elements() / 2; ++i) model.queries[1].f32()[i] *= 0.02f;
    const Calibration calibration = model.calibrated();
    const std::vector<double>& grid = share_grid();
    CHECK(grid.back() == 1);
    CHECK(grid.front() < 0.001);
    CHECK(std::is_sorted(grid.begin(), grid.end()));
    for (const BlockCalibration& block : calibration.blocks) {
      const HeadShares& shares = block.shares;
      REQUIRE(shares.kept.size() == grid.size() * 4);
      for (size_t target = 0; target < grid.size(); ++target) {
        const double kept = mean_of(shares.kept, target * 4, 4);
        if (grid[target] < 0.5) CHECK(std::abs(kept - grid[target]) <= 0.01);
        if (grid[target] >= 0.5) CHECK(std::abs(kept - 0.5) <= 0.01);  // no more reach the last stage
        for (size_t head = 0; target > 0 && head < 4; ++head) {
          CHECK(shares.kept[target * 4 + head] >= shares.kept[target * 4 - 4 + head]);
        }
      }
      for (const double share : {1e-5, 0.001, 0.02, 0.3, 0.7, 1.0}) {
        double sum = 0;
        for (int head = 0; head < 4; ++head) sum += shares.factor(share, head / 2, head % 2) / 4;
        CHECK(sum == doctest::Approx(1));
      }
      // Layer 1, KV head 0 is nearly flat: all of its keys score about 1 / 800, which few of the others' exceed.
      for (int head : {0, 1, 3}) CHECK(shares.factor(0.4, 1, 0) > shares.factor(0.4, head / 2, head % 2));
    }
    CHECK(HeadShares{}.factor(0.3, 5, 7) == 1);
    CHECK(HeadShares{1, 2, std::vector<float>(grid.size() * 2, 0.0f)}.factor(0.3, 0, 1) == 1);
  }

  TEST_CASE("levels by default: a 24th of the clusters each, until few are scored at once") {
    const auto counts = [](int64_t leaves) {
      std::vector<int64_t> n;
      for (const ClusterCount& level : levels_above({0, leaves}, 10 * leaves)) n.push_back(level.count);
      return n;
    };
    CHECK(counts(1).empty());
    CHECK(counts(kMaxScored).empty());
    CHECK(counts(kMaxScored + 1) == std::vector<int64_t>{85});
    CHECK(counts(24 * kMaxScored) == std::vector<int64_t>{kMaxScored});
    CHECK(counts(24 * kMaxScored + 24) == std::vector<int64_t>{85, kMaxScored + 1});
    CHECK(counts(int64_t{1} << 22) == std::vector<int64_t>{303, 7281, 174762});
    CHECK(levels_above({.share = 0.025}, 100000).size() == 1);
    for (const int64_t leaves : {2000, 30000, 500000, 3000000}) {  // levels that check_options takes
      IndexOptions options;
      options.levels = levels_above({0, leaves}, 10 * leaves);
      options.levels.push_back({0, leaves});
      CHECK_NOTHROW(check_options(options, 10 * leaves));
      const std::vector<double> keep = default_upper_keep(options, 10 * leaves);
      REQUIRE(keep.size() + 1 == options.levels.size());
      double above = 1;
      for (size_t i = 0; i < keep.size(); ++i) {
        CHECK(keep[i] <= kDefaultUpperKeep * above);
        CHECK(keep[i] * double(options.levels[i + 1].of(10 * leaves)) <= double(kMaxScored) * (1 + 1e-12));
        above = keep[i];
      }
    }
    IndexOptions small;
    small.levels = {{0, 10}, {0, 40}, {0, 160}};
    CHECK(default_upper_keep(small, 5000) == std::vector<double>{0.75, 0.5625});
    small.levels = {{0, 160}};
    CHECK(default_upper_keep(small, 5000).empty());
  }
}

}  // namespace squeeze
