// Tests of the lookup with sketches: the estimated scores by the definition, ties, what upper levels let through, and
// the mass of what was dropped.
#include "lib/attention/key_stage.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "lib/core/error.hpp"
#include "tests/made_lookup.hpp"

namespace squeeze {
namespace {

using namespace made_lookup;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The logits of one query, in float64 and by the definition.
struct Logits {
  std::vector<std::vector<double>> levels;  // of each level's centroids
  std::vector<double> keys;                 // estimated
  double size = 0;                          // |s| (|q| of the largest terms): what float32 errors are relative to
  double rounding = 0;                      // a key's largest error by the rounding of a query's tables

  Logits(const HeadView& head, TensorView query) {
    const std::vector<double> q = row_of(query, 0);
    for (const LevelView& level : head.levels) {
      levels.emplace_back();
      for (int64_t i = 0; i < level.n_clusters(); ++i) {
        const std::vector<double> centroid = row_of(level.centroid_rows(), i);
        levels.back().push_back(double{kScale} * dot_of(q, centroid));
        size = std::max(size, double{kScale} * std::sqrt(dot_of(q, q) * dot_of(centroid, centroid)));
      }
    }
    const std::vector<int64_t> leaf_of = leaf_of_key(head);
    const double half_step = table_step(head.sketches, q) / 2 * (1 + 0x1p-12);  // a quotient of two float32 is rounded
    const auto n_steps = double(head.sketches.n_groups());
    for (int64_t key = 0; key < head.n_clustered(); ++key) {
      const std::vector<double> code = code_of(head.sketches, key, kDim);
      rounding = std::max(rounding, double{kScale} * sketch_scale(head.sketches, key) * half_step * n_steps);
      const double own = double{kScale} * sketch_scale(head.sketches, key) * dot_of(q, code);
      keys.push_back(levels.back()[size_t(leaf_of[size_t(key)])] + own);
      size = std::max(size,
                      double{kScale} * sketch_scale(head.sketches, key) * std::sqrt(dot_of(q, q) * dot_of(code, code)));
    }
  }
  // Float32: a sum of kDim products after a rotation of as many, then an addition. Of a key's, `rounding` comes on top.
  double error() const { return 0x1p-24 * double(2 * kDim + 8) * 2 * size; }
};

int64_t parent_of(const LevelView& coarse, int64_t leaf) {
  return std::upper_bound(coarse.first_child.begin(), coarse.first_child.end(), leaf) - coarse.first_child.begin() - 1;
}

}  // namespace

TEST_SUITE("key_stage") {
  TEST_CASE("a key's score is that of its estimate, beside all that was dropped, and they sum to one") {
    for (const int bits : {1, 2}) {
      for (const bool quantise : {false, true}) {
        const IndexLayer layer = sketched(bits, quantise);
        const HeadView head = layer.head(0);
        const Tensor queries = random_tensor({1, kDim}, 9);
        const Logits logits(head, queries);
        const auto flat = stage_scores(head, queries, kScale, {});
        REQUIRE(flat.size() == 3);
        for (const Thresholds& upper : {Thresholds{-kInfinity, -kInfinity},
                                        {sorted(flat[0])[1], -kInfinity},
                                        {-kInfinity, sorted(flat[1])[9]},
                                        {sorted(flat[0])[2], sorted(flat[1])[14]}}) {
          const auto scores = stage_scores(head, queries, kScale, upper);
          const LevelView& coarse = head.levels[0];
          const LevelView& leaves = head.levels[1];
          double sum = 0, gone = 0;
          std::vector<bool> survives(size_t(leaves.n_clusters()));
          for (int64_t i = 0; i < coarse.n_clusters(); ++i) {
            if (scores[0][size_t(i)] <= upper[0]) gone += coarse.n_rows(i) * std::exp(logits.levels[0][size_t(i)]);
          }
          for (int64_t i = 0; i < leaves.n_clusters(); ++i) {
            const bool in_play = scores[0][size_t(parent_of(coarse, i))] > upper[0];
            CHECK(std::isnan(scores[1][size_t(i)]) == !in_play);
            survives[size_t(i)] = in_play && scores[1][size_t(i)] > upper[1];
            if (in_play && !survives[size_t(i)]) gone += leaves.n_rows(i) * std::exp(logits.levels[1][size_t(i)]);
          }
          const std::vector<int64_t> leaf_of = leaf_of_key(head);
          for (size_t key = 0; key < leaf_of.size(); ++key) {
            if (survives[size_t(leaf_of[key])]) sum += std::exp(logits.keys[key]);
          }
          // Above and below the fraction line.
          const double tolerance = std::expm1(2 * (logits.rounding + logits.error() + 0x1p-23 * double(40 + 300)));
          double total = gone / (sum + gone);
          for (size_t key = 0; key < leaf_of.size(); ++key) {
            CHECK(std::isnan(scores[2][key]) == !survives[size_t(leaf_of[key])]);
            if (!survives[size_t(leaf_of[key])]) continue;
            const double expected = std::exp(logits.keys[key]) / (sum + gone);
            CHECK(std::abs(double{scores[2][key]} - expected) <= tolerance * expected);
            total += double{scores[2][key]};
          }
          CHECK(std::abs(total - 1) <= tolerance);
        }
      }
    }
  }

  TEST_CASE("a higher threshold keeps a part of the rows, -infinity for the leaves reads no sketches") {
    const IndexLayer layer = sketched(1);
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({2, kDim}, 13);
    const auto scores = stage_scores(head, queries, kScale, {-kInfinity, 0});
    std::set<int32_t> last;
    for (const float threshold : {1.0f, sorted(scores[2])[250], sorted(scores[2])[100], sorted(scores[2])[0], -1.0f}) {
      const auto rows = rows_of(select(head, queries, {Rule::threshold, {-kInfinity, 0, threshold}}));
      CHECK(std::includes(rows.begin(), rows.end(), last.begin(), last.end()));
      last = rows;
    }
    CHECK(last.size() == 288);
    const Selection by_leaves = select(head, queries, {Rule::threshold, {-kInfinity, -kInfinity, 0.003f}});
    CHECK(by_leaves.n_sketched == 0);
    CHECK(by_leaves.index_bytes == 0);
    for (const DroppedCluster& d : by_leaves.dropped) CHECK(d.n_keys == head.levels[1].n_rows(d.cluster));
    for (const SelectionRule& rule : {SelectionRule{}, SelectionRule{Rule::threshold, {0.1f, 0.1f, -kInfinity}},
                                      SelectionRule{Rule::top_p, {0.1f, 0.1f}}}) {
      if (rule.rule == Rule::all) CHECK(select(head, queries, rule).n_keys == 288);
      CHECK(select(head, queries, rule).n_sketched == 0);
    }
  }

  TEST_CASE("equal keys: the lower rows first") {
    Tensor keys = Tensor::zeros(DType::f32, {1, 112, 4});
    for (int64_t token = 0; token < 112; ++token) keys.f32()[token * 4 + token % 2] = 1;
    const IndexLayer layer = build_layer(keys, keys, options_of({.levels = {{.count = 2}}, .bits = 1}));
    const HeadView head = layer.head(0);
    REQUIRE(head.levels[0].n_clusters() == 2);
    Tensor query = Tensor::zeros(DType::f32, {1, 4});
    const SelectionRule rule{.rule = Rule::top_k, .thresholds = {-1}, .top_k = 7};
    CHECK(select_clusters(head, query, kScale, rule).ranges == std::vector<RowRange>{{2, 9}});
    for (int64_t c = 0; c < 2; ++c) {
      std::fill_n(query.f32(), 4, 0.0f);
      query.f32()[c] = 1;
      const int64_t better = row_of(head.levels[0].centroid_rows(), 0)[size_t(c)] > 0 ? 0 : 1;
      const int32_t first = head.levels[0].first_row[size_t(better)];
      CHECK(select_clusters(head, query, kScale, rule).ranges == std::vector<RowRange>{{first, first + 7}});
    }
  }

  TEST_CASE("keep_keys: the best clusters of an upper level that hold so many keys; what fits is not scored") {
    const IndexLayer layer = sketched(1);
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({3, kDim}, 14);
    const auto coarse = stage_scores(head, queries, kScale, {})[0];
    const auto best = std::max_element(coarse.begin(), coarse.end()) - coarse.begin();
    for (const int64_t n : {1, 50, 100, 287, 288}) {
      for (const bool sketches : {false, true}) {
        HeadView own = head;
        if (!sketches) own.sketches = {};
        SelectionRule rule{.rule = Rule::top_k, .top_k = 1000, .keep_keys = {n}};
        if (sketches) rule.thresholds = {0, -1};
        const Selection selection = select(own, queries, rule);
        CHECK(selection.n_keys <= std::max<int64_t>(n, head.levels[0].n_rows(best)));
        CHECK((selection.n_scored == 30) == (n == 288));
        for (const DroppedCluster& d : selection.dropped) CHECK(d.level == 0);
        CHECK(std::none_of(selection.dropped.begin(), selection.dropped.end(),
                           [&](const DroppedCluster& d) { return d.cluster == best; }));
      }
    }
    CHECK_THROWS_WITH_AS(select(head, queries, {.rule = Rule::top_k, .top_k = 5, .keep_keys = {1, 2}}),
                         doctest::Contains("1 sizes to keep, found 2"), Error);
    CHECK_THROWS_WITH_AS(select(head, queries, {Rule::threshold, {0, 0}}),
                         doctest::Contains("3 stages needs as many thresholds, found 2"), Error);
    CHECK_THROWS_AS(stage_scores(head, queries, kScale, {0}), Error);
    CHECK_THROWS_AS(stage_scores(head, queries, kScale, {}, {GqaSelect::group_max, 2}), Error);
    CHECK_THROWS_AS(stage_scores(head, queries, kScale, {}, {GqaSelect::group_max, 0}), Error);
  }

  TEST_CASE("what was dropped counts n s q·C where only the centroid was read, else its keys' estimates") {
    for (const int bits : {1, 2}) {
      const IndexLayer layer = sketched(bits, bits == 1);
      const HeadView head = layer.head(0);
      const Tensor queries = random_tensor({6, kDim}, 15);
      const auto flat = stage_scores(head, queries, kScale, {});
      const Thresholds upper = {sorted(flat[0])[1], sorted(flat[1])[10]};
      const auto scores = stage_scores(head, queries, kScale, upper);
      const Selection selection = select(head, queries, {.rule = Rule::top_k, .thresholds = upper, .top_k = 30});
      REQUIRE(selection.rest_logits.size() == 6 * selection.dropped.size());
      const std::set<int32_t> read = rows_of(selection);
      int64_t n_by_centroid = 0, n_by_sketches = 0;
      for (int64_t q = 0; q < 6; ++q) {
        const Logits logits(head, queries.view().slice(q, q + 1));
        double squares = 0;
        for (const double x : row_of(queries.view(), q)) squares += x * x;
        for (size_t i = 0; i < selection.dropped.size(); ++i) {
          const DroppedCluster& d = selection.dropped[i];
          const double found = double{selection.rest_logits[size_t(q) * selection.dropped.size() + i]};
          const double tolerance = logits.error() + 0x1p-22 * (std::abs(found) + 20);
          if (d.level == 0 || scores[1][size_t(d.cluster)] <= upper[1]) {
            const double expected = std::log(double(d.n_keys)) + logits.levels[size_t(d.level)][size_t(d.cluster)];
            CHECK(d.n_keys == head.levels[size_t(d.level)].n_rows(d.cluster));
            CHECK(std::abs(found - expected) <= tolerance);
            ++n_by_centroid;
            continue;
          }
          // The sum over the keys that it lost, and half of the variance of what their codes miss, at the leaf's mean.
          // A sum from which the kept keys were taken off is off by their rounding.
          double plain = 0, kept = 0, squared_scale = 0;
          for (int32_t row = head.levels[1].first_row[size_t(d.cluster)];
               row < head.levels[1].first_row[size_t(d.cluster) + 1]; ++row) {
            const double scale = sketch_scale(head.sketches, row - head.n_sinks);
            squared_scale += scale * scale / head.levels[1].n_rows(d.cluster);
            (read.contains(row) ? kept : plain) += std::exp(logits.keys[size_t(row - head.n_sinks)]);
          }
          const double miss =
              0.5 * double{kScale} * double{kScale} * squares * squared_scale * double{head.sketches.error};
          const double rounding = logits.rounding + tolerance + 0x1p-20 * kept / plain;
          CHECK(std::abs(found - std::log(plain) - miss) <= rounding);
          ++n_by_sketches;
        }
      }
      CHECK(n_by_centroid > 0);
      CHECK(n_by_sketches > 0);
    }
  }
}

}  // namespace squeeze
