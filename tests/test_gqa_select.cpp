// Tests of the ways in which the query heads of a KV head choose together.
#include <doctest/doctest.h>

#include <limits>

#include "tests/made_lookup.hpp"

namespace squeeze {
namespace {

using namespace made_lookup;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr GqaSelect kSelects[] = {GqaSelect::group_mean, GqaSelect::group_max, GqaSelect::per_head};

}  // namespace

TEST_SUITE("gqa_select") {
  TEST_CASE("every clustered row is read or counted once, by every rule and group; sketches are counted") {
    for (const int bits : {1, 2}) {
      const IndexLayer layer = sketched(bits, bits == 2);
      const HeadView head = layer.head(0);
      const Tensor queries = random_tensor({12, kDim}, 9);
      for (const GqaSelect gqa : kSelects) {
        const QueryGroup group{gqa, 4};
        const auto flat = stage_scores(head, queries, kScale, {}, group);
        const Thresholds upper = {sorted(flat[0])[1], sorted(flat[1])[12]};
        const auto scores = stage_scores(head, queries, kScale, upper, group);
        int64_t n_coarse_kept = 0, n_leaves = 0, n_candidates = 0;
        for (const float s : scores[0]) n_coarse_kept += s > upper[0];
        for (const float s : scores[1]) n_leaves += !std::isnan(s);
        for (const float s : scores[2]) n_candidates += !std::isnan(s);
        CHECK(n_coarse_kept < 6);
        const Thresholds all = {upper[0], upper[1], sorted(scores[2])[100]};
        for (const SelectionRule& rule : {SelectionRule{.rule = Rule::threshold, .thresholds = all},
                                          {.rule = Rule::top_k, .thresholds = upper, .top_k = 0},
                                          {.rule = Rule::top_k, .thresholds = upper, .top_k = 1},
                                          {.rule = Rule::top_k, .thresholds = upper, .top_k = 37},
                                          {.rule = Rule::top_k, .thresholds = upper, .top_k = 1000},
                                          {.rule = Rule::top_p, .thresholds = upper, .top_p = 0.0},
                                          {.rule = Rule::top_p, .thresholds = upper, .top_p = 0.4},
                                          {.rule = Rule::top_p, .thresholds = upper, .top_p = 0.99}}) {
          SelectionRule own = rule;
          own.group = group;
          const Selection selection = select(head, queries, own);
          CHECK(selection.n_sketched == n_candidates);
          CHECK(selection.index_bytes == n_candidates * (2 + bits * 2) + head.sketches.codebook_bytes());
          CHECK(selection.n_scored == 6 + n_leaves);
          if (rule.rule == Rule::top_k) CHECK(selection.n_keys <= rule.top_k);
        }
        for (const double bytes : {0.0, 3000.0, 6000.0, 12000.0, 1e9}) {
          for (const Rest rest : {Rest::drop, Rest::mean}) {
            SelectionRule own{.rule = Rule::bytes, .keep_keys = {200}, .bytes = bytes, .rest = rest, .group = group};
            (void)select(head, queries, own);
          }
        }
      }
    }
  }

  TEST_CASE("heads that choose for themselves read the union of what each alone reads") {
    const IndexLayer layer = sketched(1);
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({12, kDim}, 9);
    const float leaf_limit = -1;  // every leaf passes, so that heads differ in their keys only
    const auto scores = stage_scores(head, queries, kScale, {-kInfinity, leaf_limit}, {GqaSelect::per_head, 4});
    for (const size_t rank : {20u, 150u, 270u, 287u}) {
      SelectionRule rule{.rule = Rule::threshold,
                         .thresholds = {-kInfinity, leaf_limit, sorted(scores[2])[rank]},
                         .group = {GqaSelect::per_head, 4}};
      const Selection per_head = select(head, queries, rule);
      rule.group.select = GqaSelect::group_max;
      CHECK(same_selection(select(head, queries, rule), per_head));
      std::set<int32_t> together;
      for (int64_t g = 0; g < 4; ++g) {
        Tensor own(DType::f32, {3, kDim});
        for (int64_t t = 0; t < 3; ++t) std::copy_n(queries.f32() + (t * 4 + g) * kDim, kDim, own.f32() + t * kDim);
        rule.group = {GqaSelect::per_head, 1};
        together.merge(rows_of(select(head, own, rule)));
      }
      CHECK(together == rows_of(per_head));
    }
  }

  TEST_CASE("pruning by the largest head's score and by each head's is the same selection") {
    const IndexLayer layer = sketched(2, true);
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({6, kDim}, 10);
    const auto flat = stage_scores(head, queries, kScale, {}, {GqaSelect::group_max, 3});
    const Thresholds upper = {sorted(flat[0])[2], sorted(flat[1])[15]};
    const auto scores = stage_scores(head, queries, kScale, upper, {GqaSelect::group_max, 3});
    SelectionRule rule{.rule = Rule::threshold,
                       .thresholds = {upper[0], upper[1], sorted(scores[2])[40]},
                       .group = {GqaSelect::group_max, 3}};
    const Selection max = select(head, queries, rule);
    rule.group.select = GqaSelect::per_head;
    CHECK(same_selection(select(head, queries, rule), max));
    CHECK(max.n_keys == std::ssize(sorted(scores[2])) - 41);
  }

  TEST_CASE("a group of one head selects the same three ways") {
    const IndexLayer layer = sketched(1);
    const HeadView head = layer.head(0);
    const Tensor queries = random_tensor({5, kDim}, 11);
    const auto flat = stage_scores(head, queries, kScale, {});
    const float border = sorted(flat[1])[10];
    for (const SelectionRule& rule :
         {SelectionRule{.rule = Rule::threshold, .thresholds = {-kInfinity, border, sorted(flat[2])[200]}},
          {.rule = Rule::top_k, .thresholds = {-kInfinity, border}, .top_k = 50},
          {.rule = Rule::top_p, .thresholds = {-kInfinity, border}, .top_p = 0.5},
          {.rule = Rule::bytes, .keep_keys = {150}, .bytes = 6000}}) {
      std::vector<Selection> found;
      for (const GqaSelect select_by : kSelects) {
        SelectionRule own = rule;
        own.group = {select_by, 1};
        found.push_back(select(head, queries, own));
      }
      CHECK(same_selection(found[0], found[1]));
      CHECK(same_selection(found[0], found[2]));
    }
  }

  TEST_CASE("the mean of the heads' scores is never above their largest") {
    const IndexLayer layer = sketched(1);
    const Tensor queries = random_tensor({8, kDim}, 12);
    const auto mean = stage_scores(layer.head(0), queries, kScale, {}, {GqaSelect::group_mean, 4});
    const auto max = stage_scores(layer.head(0), queries, kScale, {}, {GqaSelect::group_max, 4});
    for (size_t stage = 0; stage < 3; ++stage) {
      for (size_t i = 0; i < mean[stage].size(); ++i) {
        CHECK(double{mean[stage][i]} <= double{max[stage][i]} * (1 + 0x1p-20));  // 8 rows of roundings
      }
    }
  }
}

}  // namespace squeeze
