// Tests of the lookup: scores against the formula, every selection rule, the partition law, bad queries.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/attention/lookup.hpp"
#include "lib/core/error.hpp"
#include "tests/made_layer.hpp"

using namespace squeeze;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kScale = 0.5f;

IndexLayer tree_of(const std::vector<ClusterCount>& levels, DType dtype = DType::f32, int64_t n_tokens = 300) {
  const Tensor keys = topic_keys(1, n_tokens, 8, 12, 1, dtype);
  return build_layer(keys, keys, options_with(levels));
}

double logit(const LevelView& level, int64_t cluster, const float* query) {
  double product = 0;
  for (int64_t c = 0; c < 8; ++c) {
    product +=
        double{query[c]} * double{load_element(level.centroids.data(), level.centroids.dtype(), cluster * 8 + c)};
  }
  return double{kScale} * product;
}

// The scores of the leaves of a two-level tree, in float64 and by the definition; `dropped` coarse clusters count as
// one term each, their leaves get NaN.
std::vector<double> leaf_scores(const HeadView& head, TensorView queries, const std::vector<bool>& dropped) {
  const LevelView& coarse = head.levels[0];
  const LevelView& leaves = head.levels[1];
  std::vector<double> mean(static_cast<size_t>(leaves.n_clusters()), 0.0);
  for (int64_t row = 0; row < queries.size(0); ++row) {
    const float* query = queries.f32() + row * 8;
    double sum = 0;
    std::vector<double> weight(mean.size(), NAN);
    for (int64_t c = 0; c < coarse.n_clusters(); ++c) {
      if (dropped[static_cast<size_t>(c)]) {
        sum += coarse.n_rows(c) * std::exp(logit(coarse, c, query));
        continue;
      }
      for (int32_t leaf = coarse.first_child[static_cast<size_t>(c)];
           leaf < coarse.first_child[static_cast<size_t>(c) + 1]; ++leaf) {
        weight[static_cast<size_t>(leaf)] = std::exp(logit(leaves, leaf, query));
        sum += leaves.n_rows(leaf) * weight[static_cast<size_t>(leaf)];
      }
    }
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += weight[i] / sum / static_cast<double>(queries.size(0));
  }
  return mean;
}

// Every clustered row lies in one range or in one dropped cluster, and the counts agree.
void check_partition(const HeadView& head, const Selection& selection) {
  std::vector<int> covered(static_cast<size_t>(head.n_tokens()), 0);
  const auto cover = [&](int32_t begin, int32_t end) {
    for (int32_t row = begin; row < end; ++row) ++covered[static_cast<size_t>(row)];
  };
  int64_t n_keys = 0;
  int32_t last_end = -1;
  for (const RowRange& range : selection.ranges) {
    CHECK(range.begin > last_end);  // ascending, and merged where they touch
    CHECK(range.end > range.begin);
    cover(range.begin, range.end);
    n_keys += range.end - range.begin;
    last_end = range.end;
  }
  CHECK(selection.n_keys == n_keys);
  for (const DroppedCluster& d : selection.dropped) {
    const LevelView& level = head.levels[static_cast<size_t>(d.level)];
    cover(level.first_row[static_cast<size_t>(d.cluster)], level.first_row[static_cast<size_t>(d.cluster) + 1]);
  }
  for (int64_t row = 0; row < head.n_tokens(); ++row) {
    const bool clustered = row >= head.n_sinks && row < head.n_tokens() - head.n_window;
    CHECK(covered[static_cast<size_t>(row)] == (clustered ? 1 : 0));
  }
}

Selection select(const HeadView& head, TensorView queries, SelectionRule rule) {
  const Selection selection = select_clusters(head, queries, kScale, rule);
  check_partition(head, selection);
  return selection;
}

bool contains(const Selection& more, const Selection& fewer) {
  return std::all_of(fewer.ranges.begin(), fewer.ranges.end(), [&](const RowRange& a) {
    return std::any_of(more.ranges.begin(), more.ranges.end(),
                       [&](const RowRange& b) { return b.begin <= a.begin && a.end <= b.end; });
  });
}

// A head of one level over n leaves of the given sizes with one-dimensional centroids.
struct Line {
  Tensor keys, centroids;
  std::vector<int32_t> token_of_row, first_row{0};

  Line(const std::vector<float>& x, const std::vector<int32_t>& sizes) : centroids(DType::f32, {int64_t(x.size()), 1}) {
    std::copy(x.begin(), x.end(), centroids.f32());
    for (const int32_t size : sizes) first_row.push_back(first_row.back() + size);
    keys = Tensor::zeros(DType::f32, {first_row.back(), 1});
    for (int32_t row = 0; row < first_row.back(); ++row) token_of_row.push_back(row);
  }
  HeadView head() const { return {keys, keys, token_of_row, 0, 0, {{centroids, centroids, first_row, {}}}}; }
};

Tensor query_of(float x) {
  Tensor query(DType::f32, {1, 1});
  query.f32()[0] = x;
  return query;
}

}  // namespace

TEST_SUITE("lookup") {
  TEST_CASE("the score by hand: exp(0) and exp(log 3), sizes 2 and 1") {
    const Line line({0, std::log(3.0f)}, {2, 1});
    const auto scores = stage_scores(line.head(), query_of(1), 1, {});
    CHECK(scores[0][0] == doctest::Approx(0.2));  // 1 / (2 * 1 + 1 * 3)
    CHECK(scores[0][1] == doctest::Approx(0.6));
  }

  TEST_CASE("scores equal the definition, flat and below a level that pruned, for groups of rows") {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const IndexLayer layer = tree_of({{0, 6}, {0, 40}}, dtype);
      const HeadView head = layer.head(0);
      for (const int64_t n_rows : {1, 2, 33, 70}) {  // group size x query tokens, beyond one block of rows
        const Tensor queries = random_tensor({n_rows, 8}, 9);
        const auto flat = stage_scores(head, queries, kScale, {});
        std::vector<float> sorted = flat[0];
        std::sort(sorted.begin(), sorted.end());
        for (const float threshold : {-kInfinity, sorted[1], sorted[3]}) {
          const auto scores = stage_scores(head, queries, kScale, {threshold});
          CHECK(scores[0] == flat[0]);
          std::vector<bool> dropped;
          for (const float s : scores[0]) dropped.push_back(s <= threshold);
          const auto expected = leaf_scores(head, queries, dropped);
          for (size_t i = 0; i < expected.size(); ++i) {
            CHECK(std::isnan(scores[1][i]) == std::isnan(expected[i]));
            if (!std::isnan(expected[i])) CHECK(double{scores[1][i]} == doctest::Approx(expected[i]).epsilon(1e-4));
          }
        }
      }
    }
  }

  TEST_CASE("without pruning the sum of N_i S_i is one at every level") {
    const IndexLayer layer = tree_of({{0, 3}, {0, 12}, {0, 40}});
    const HeadView head = layer.head(0);
    const auto scores = stage_scores(head, random_tensor({5, 8}, 9), kScale, {});
    CHECK(scores.size() == 3);
    for (size_t level = 0; level < 3; ++level) {
      double sum = 0;
      for (size_t i = 0; i < scores[level].size(); ++i) {
        sum += double{scores[level][i]} * head.levels[level].n_rows(static_cast<int64_t>(i));
      }
      CHECK(sum == doctest::Approx(1).epsilon(1e-5));
    }
  }

  TEST_CASE("huge logits neither overflow nor give NaN") {
    const IndexLayer layer = tree_of({{0, 6}, {0, 40}});
    Tensor queries = random_tensor({3, 8}, 9);
    for (int64_t i = 0; i < queries.n_elements(); ++i) queries.f32()[i] *= 1e4f;
    for (const auto& level : stage_scores(layer.head(0), queries, kScale, {})) {
      for (const float s : level) CHECK((s >= 0 && s <= 1));
    }
  }

  TEST_CASE("the order of the rows does not matter beyond rounding") {
    const IndexLayer layer = tree_of({{0, 6}, {0, 40}});
    const Tensor queries = random_tensor({7, 8}, 9);
    Tensor reversed = queries.clone();
    for (int64_t row = 0; row < 7; ++row) {
      std::copy_n(queries.f32() + row * 8, 8, reversed.f32() + (6 - row) * 8);
    }
    const auto a = stage_scores(layer.head(0), queries, kScale, {});
    const auto b = stage_scores(layer.head(0), reversed, kScale, {});
    for (size_t i = 0; i < a[1].size(); ++i) CHECK(a[1][i] == doctest::Approx(b[1][i]).epsilon(1e-5));
  }

  TEST_CASE("everything is one range: rule all, thresholds of -infinity, top-p 1, top-k all") {
    const IndexLayer layer = tree_of({{0, 6}, {0, 40}});
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({3, 8}, 9);
    for (const SelectionRule& rule : {SelectionRule{}, SelectionRule{Rule::threshold, {-kInfinity, -kInfinity}},
                                      SelectionRule{Rule::top_p, {}}, SelectionRule{Rule::top_k, {}, 288}}) {
      const Selection selection = select(head, queries, rule);
      CHECK(selection.ranges == std::vector<RowRange>{{2, 290}});
      CHECK(selection.n_keys == 288);
      CHECK(selection.dropped.empty());
      CHECK(selection.n_scored == (rule.rule == Rule::top_k ? head.levels[1].n_clusters() : 0));
    }
  }

  TEST_CASE("threshold: a higher one keeps a subset, at every level; equal scores are dropped") {
    const IndexLayer layer = tree_of({{0, 6}, {0, 40}});
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({4, 8}, 9);
    const auto scores = stage_scores(head, queries, kScale, {});
    std::vector<float> sorted = scores[1];
    std::sort(sorted.begin(), sorted.end());
    Selection last = select(head, queries, {Rule::all});
    for (const float threshold : sorted) {
      const Selection selection = select(head, queries, {Rule::threshold, {-kInfinity, threshold}});
      CHECK(contains(last, selection));
      int64_t expected = 0;
      for (size_t i = 0; i < sorted.size(); ++i) {
        if (scores[1][i] > threshold) expected += head.levels[1].n_rows(static_cast<int64_t>(i));
      }
      CHECK(selection.n_keys == expected);
      last = selection;
    }
    CHECK(last.n_keys == 0);
  }

  TEST_CASE("pruning: only children of survivors are scored, clusters are dropped at their level") {
    const IndexLayer layer = tree_of({{0, 6}, {0, 40}});
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({4, 8}, 9);
    const auto coarse = stage_scores(head, queries, kScale, {})[0];
    const float threshold = *std::min_element(coarse.begin(), coarse.end());
    const auto lowest = static_cast<size_t>(std::min_element(coarse.begin(), coarse.end()) - coarse.begin());
    const Selection selection = select(head, queries, {Rule::threshold, {threshold, -kInfinity}});
    CHECK(selection.dropped ==
          std::vector<DroppedCluster>{{0, static_cast<int32_t>(lowest), head.levels[0].n_rows(int64_t(lowest))}});
    CHECK(selection.n_scored == head.levels[0].n_clusters());
    const Selection both = select(head, queries, {Rule::threshold, {threshold, 0}});
    CHECK(both.n_scored == head.levels[0].n_clusters() + head.levels[1].n_clusters() -
                               (head.levels[0].first_child[lowest + 1] - head.levels[0].first_child[lowest]));
    const Selection nothing = select(head, queries, {Rule::threshold, {kInfinity, 0}});
    CHECK(nothing.n_keys == 0);
    CHECK(nothing.dropped.size() == coarse.size());
    CHECK(nothing.n_scored == head.levels[0].n_clusters());
    for (const SelectionRule& rule : {SelectionRule{Rule::top_k, {threshold}, 288}, {Rule::top_p, {threshold}, 0, 1}}) {
      CHECK(select(head, queries, rule).dropped == selection.dropped);
    }
  }

  TEST_CASE("top-k: the best leaves, never more keys than asked unless the best leaf alone has more; nested") {
    const Line line({3, 1, 2, 0}, {4, 3, 2, 1});
    const auto ranges = [&](int64_t k) { return select(line.head(), query_of(1), {Rule::top_k, {}, k}).ranges; };
    using Ranges = std::vector<RowRange>;
    CHECK(ranges(0).empty());
    CHECK(ranges(1) == Ranges{{0, 4}});
    CHECK(ranges(5) == Ranges{{0, 4}});
    CHECK(ranges(6) == Ranges{{0, 4}, {7, 9}});
    CHECK(ranges(9) == Ranges{{0, 9}});
    CHECK(ranges(10) == Ranges{{0, 10}});
    const IndexLayer layer = tree_of({{0, 6}, {0, 40}});
    const Tensor queries = random_tensor({4, 8}, 9);
    const int64_t best_leaf = select(layer.head(0), queries, {Rule::top_k, {}, 1}).n_keys;
    Selection last;
    for (int64_t k = 0; k <= 288; k += 7) {
      const Selection selection = select(layer.head(0), queries, {Rule::top_k, {}, k});
      CHECK(selection.n_keys <= std::max(k, k > 0 ? best_leaf : 0));
      CHECK(contains(selection, last));
      last = selection;
    }
  }

  TEST_CASE("top-p: as few of the best leaves as hold the mass") {
    const Line line({0, 2 * std::log(4.0f), 2 * std::log(2.0f)}, {2, 1, 1});  // masses 2/8, 4/8, 2/8
    const auto keys = [&](double p) { return select(line.head(), query_of(1), {Rule::top_p, {}, 0, p}).n_keys; };
    CHECK(keys(0) == 0);
    CHECK(keys(0.4) == 1);
    CHECK(keys(0.6) == 2);
    CHECK(keys(0.8) == 4);
    CHECK(keys(1) == 4);
  }

  TEST_CASE("ties go to the lower cluster") {
    const Line line({1, 1, 1, 1}, {2, 2, 2, 2});
    CHECK(select(line.head(), query_of(1), {Rule::top_k, {}, 4}).ranges == std::vector<RowRange>{{0, 4}});
    CHECK(select(line.head(), query_of(1), {Rule::top_p, {}, 0, 0.3}).ranges == std::vector<RowRange>{{0, 4}});
  }

  TEST_CASE("bad queries, scales and rules are refused") {
    const IndexLayer layer = tree_of({{0, 6}, {0, 40}});
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({4, 8}, 9);
    for (const float bad : {NAN, INFINITY}) {
      Tensor broken = queries.clone();
      broken.f32()[13] = bad;
      for (const Rule rule : {Rule::all, Rule::top_k}) {
        CHECK_THROWS_WITH_AS(select_clusters(head, broken, kScale, {rule}), doctest::Contains("not finite"), Error);
      }
      CHECK_THROWS_WITH_AS(stage_scores(head, broken, kScale, {}), doctest::Contains("not finite"), Error);
      CHECK_THROWS_AS(select_clusters(head, queries, bad, {}), Error);
    }
    Tensor overflowing = queries.clone();
    for (int64_t i = 0; i < overflowing.n_elements(); ++i) overflowing.f32()[i] = 3e38f;
    CHECK_THROWS_WITH_AS(stage_scores(head, overflowing, 100, {}), doctest::Contains("not finite"), Error);
    CHECK_THROWS_AS(select_clusters(head, random_tensor({4, 7}, 9), kScale, {}), Error);
    CHECK_THROWS_AS(select_clusters(head, convert(queries, DType::f16), kScale, {}), Error);
    CHECK_THROWS_AS(select_clusters(head, Tensor(DType::f32, {0, 8}), kScale, {}), Error);
    CHECK_THROWS_AS(select_clusters(HeadView{}, queries, kScale, {}), Error);
    for (const SelectionRule& rule : {SelectionRule{Rule::threshold, {}},
                                      {Rule::threshold, {0}},
                                      {Rule::threshold, {0, NAN}},
                                      {Rule::top_k, {}, -1},
                                      {Rule::top_p, {}, 0, 1.5},
                                      {Rule::top_p, {}, 0, NAN},
                                      {Rule::top_k, {0, 0, 0}, 5}}) {
      CHECK_THROWS_AS(select_clusters(head, queries, kScale, rule), Error);
    }
    CHECK_THROWS_AS(stage_scores(tree_of({{0, 3}, {0, 12}, {0, 40}}).head(0), queries, kScale, {0}), Error);
  }
}
