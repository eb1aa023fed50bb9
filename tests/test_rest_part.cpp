// Tests of rest_part: dropped keys that equal their cluster's means count exactly, through sketches too.
#include "lib/attention/rest_part.hpp"

#include <doctest/doctest.h>

#include <set>

#include "lib/attention/context_parts.hpp"
#include "lib/core/error.hpp"
#include "tests/made_attention.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze {
namespace {

constexpr float kScale = 0.35f;
constexpr int64_t kDim = 16, kTopics = 12;

// 300 tokens of 12 different keys, each with its value: one leaf per topic, whose means are exact.
struct Repeated {
  Tensor keys{DType::f32, {1, 300, kDim}}, values{DType::f32, {1, 300, kDim}};
  IndexLayer layer;

  explicit Repeated(int bits, std::vector<ClusterCount> levels = {{.count = kTopics}}, bool quantise = false) {
    const Tensor topics = random_tensor({kTopics, kDim}, 41), means = random_tensor({kTopics, kDim}, 42);
    for (int64_t token = 0; token < 300; ++token) {
      const int64_t topic = token * token % 17 % kTopics;
      std::copy_n(topics.f32() + topic * kDim, kDim, keys.f32() + token * kDim);
      std::copy_n(means.f32() + topic * kDim, kDim, values.f32() + token * kDim);
    }
    layer = build_layer(keys, values, options_of({.levels = std::move(levels), .bits = bits, .quantise = quantise}));
  }
};

Tensor attend(const HeadView& head, const Selection& selection, Rest rest, TensorView queries) {
  AttentionState state(queries.size(0), queries.size(1));
  attend_context(head, selection, rest, queries, kScale, {}, state);
  return state.output();
}

bool same_state(const AttentionState& a, const AttentionState& b) {
  return same_bytes(a.acc, b.acc) && a.max == b.max && a.sum == b.sum;
}

}  // namespace

TEST_SUITE("rest_part") {
  TEST_CASE("parts of leaves of equal keys and values are dense attention, without and with sketches") {
    for (const int bits : {0, 1, 2}) {
      for (const auto& levels : {std::vector<ClusterCount>{{.count = kTopics}}, {{.count = 4}, {.count = kTopics}}}) {
        const Repeated made(bits, levels);
        const HeadView head = made.layer.head(0);
        const LevelView& leaves = head.levels.back();
        const std::vector<int64_t> leaf_of = leaf_of_key(head);
        for (int64_t key = 0; key < head.n_clustered(); ++key) {  // one topic per leaf, or nothing here is exact
          const std::vector<double> centroid = row_of(leaves.centroid_rows(), leaf_of[size_t(key)]);
          REQUIRE(row_of(head.keys, head.n_sinks + key) == centroid);
          if (bits > 0) REQUIRE(head.sketches.scales[key] == 0);
        }
        const Tensor queries = random_tensor({6, kDim}, 43);
        const auto truth = exact_attention(queries, made.keys[0], made.values[0], kScale, {});
        const double bound = attention_bound(queries, made.keys, made.values, kScale);
        for (const int64_t k : {0, 1, 5, 33, 100, 250}) {
          SelectionRule rule{.rule = Rule::top_k, .top_k = k};
          if (levels.size() == 1) {
            if (bits > 0) rule.thresholds = {-1};
          } else {  // coarse clusters are whole: their means are not exact
            rule.thresholds = bits > 0 ? Thresholds{-1, -1} : Thresholds{-1};
          }
          const Selection selection = select_clusters(head, queries, kScale, rule);
          if (bits > 0) CHECK(selection.n_keys == k);
          CHECK(largest_difference(attend(head, selection, Rest::mean, queries), truth) <= bound);
          if (k < 100) CHECK(largest_difference(attend(head, selection, Rest::drop, queries), truth) > 100 * bound);
          Selection without = selection;  // the logits are computed again: log n + s q·C
          without.rest_logits.clear();
          CHECK(largest_difference(attend(head, without, Rest::mean, queries), truth) <= bound);
        }
      }
    }
  }

  TEST_CASE("nothing dropped changes nothing, bit for bit") {
    const Repeated made(1);
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({4, kDim}, 43);
    const Selection all = select_clusters(head, queries, kScale, {});
    CHECK(all.dropped.empty());
    CHECK(same_bytes(attend(head, all, Rest::mean, queries), attend(head, all, Rest::drop, queries)));
    AttentionState state(4, kDim);
    attend_context(head, all, Rest::drop, queries, kScale, {}, state);
    AttentionState before(4, kDim);
    before.merge(state);
    RestScratch scratch;
    attend_rest({}, state, scratch);
    attend_rest(rest_part(head, all, queries, kScale), state, scratch);
    CHECK(same_state(before, state));
  }

  TEST_CASE("an estimate of no attention at all adds nothing") {
    const Repeated made(0);
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({2, kDim}, 43);
    Selection selection;
    selection.dropped = {{0, 2, 3}, {0, 3, 1}};
    selection.rest_logits = std::vector<float>(4, -INFINITY);
    AttentionState state(2, kDim), untouched(2, kDim);
    RestScratch scratch;
    attend_rest(rest_part(head, selection, queries, kScale), state, scratch);
    CHECK(same_state(state, untouched));
  }

  TEST_CASE("8-bit centroids and value means are their scaled integers") {
    const Tensor keys = topic_keys(1, 400, kDim, 9, 3), values = random_tensor({1, 400, kDim}, 4);
    const IndexLayer layer =
        build_layer(keys, values, options_of({.levels = {{.count = 90}}, .bits = 1, .quantise = true}));
    const HeadView head = layer.head(0);
    const LevelView& leaves = head.levels[0];
    CHECK(leaves.value_means.dtype() == DType::i8);
    Tensor centroids(DType::f32, leaves.centroids.shape()), means(DType::f32, leaves.centroids.shape());
    leaves.centroid_rows().widen(0, leaves.n_clusters(), centroids.f32());
    leaves.value_rows().widen(0, leaves.n_clusters(), means.f32());
    HeadView wide = head;
    wide.levels = {{centroids, means, leaves.first_row, {}}};
    const Tensor queries = random_tensor({5, kDim}, 43);
    const SelectionRule rule{.rule = Rule::top_k, .thresholds = {0.001f}, .top_k = 40};
    const Selection a = select_clusters(head, queries, kScale, rule), b = select_clusters(wide, queries, kScale, rule);
    CHECK(a.dropped.size() > 70);  // more than one tile
    CHECK(a.ranges == b.ranges);
    CHECK(a.rest_logits == b.rest_logits);
    CHECK(same_bytes(attend(head, a, Rest::mean, queries), attend(wide, b, Rest::mean, queries)));
    Selection without = a;
    without.rest_logits.clear();
    CHECK(same_bytes(attend(head, without, Rest::mean, queries), attend(wide, without, Rest::mean, queries)));
  }

  TEST_CASE("a wrong number of logits is refused") {
    const Repeated made(0);
    const Tensor queries = random_tensor({2, kDim}, 43);
    Selection selection;
    selection.dropped = {{0, 2, 3}};
    selection.rest_logits = {1, 2, 3};
    CHECK_THROWS_WITH_AS(rest_part(made.layer.head(0), selection, queries, kScale), doctest::Contains("3 logits"),
                         Error);
  }
}

}  // namespace squeeze
