// Tests of policy: what each rule hands to the lookup, and the table.
#include "lib/attention/policy.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "lib/core/error.hpp"
#include "tests/apply_policy.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

constexpr float kScale = 0.35f;

// Thresholds that depend on the block's size, so that a wrong size shows.
Calibration made_calibration(int n_upper) {
  Calibration calibration;
  calibration.upper_keep.assign(static_cast<size_t>(n_upper), 0.5);
  for (const int block_size : {1, 32}) {
    QuantileFunction f;
    for (const double sparsity : sparsity_grid()) {
      const double top = block_size == 1 ? 0.008 : 0.004;
      f.thresholds.push_back(sparsity <= 0 ? -std::numeric_limits<float>::infinity()
                                           : static_cast<float>(top * sparsity));
    }
    const std::vector<QuantileFunction> levels(static_cast<size_t>(n_upper) + 1, f);
    calibration.blocks.push_back({block_size, levels, levels});
  }
  return calibration;
}

void check_covers(const HeadView& head, const Selection& selection) {
  int64_t n_keys = 0;
  for (const RowRange& range : selection.ranges) n_keys += range.end - range.begin;
  CHECK(n_keys == selection.n_keys);
  for (const DroppedCluster& d : selection.dropped) {
    n_keys += head.levels[static_cast<size_t>(d.level)].n_rows(d.cluster);
  }
  CHECK(n_keys == head.n_clustered());
}

}  // namespace

TEST_SUITE("policy") {
  TEST_CASE("dense reads every clustered row and no centroid") {
    const MadeContext made(1, 100, 8, DType::f32, {{.count = 9}}, 3, 10);
    const HeadView head = made.layer.head(0);
    const Selection selection = apply(dense_policy(), 0, 0, head, random_tensor({1, 8}, 1), 1);
    CHECK(selection.ranges == std::vector<RowRange>{{3, 90}});
    CHECK(selection.n_keys == 87);
    CHECK(selection.n_scored == 0);
    CHECK(selection.dropped.empty());
  }

  TEST_CASE("sparsity uses the thresholds calibrated for the block's size") {
    const MadeContext made(1, 200, 8, DType::f32, {{.count = 5}, {.count = 20}});
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({30, 8}, 2);
    const Calibration calibration = made_calibration(1);
    for (const int64_t n_tokens : {1, 30}) {
      const Selection found = apply(sparsity_policy(calibration, 0.8, kScale), 0, 0, head, queries, n_tokens);
      SelectionRule rule;
      rule.rule = Rule::threshold;
      rule.thresholds = calibration.thresholds(0.8, n_tokens);
      const Selection expected = select_clusters(head, queries, kScale, rule);
      CHECK(found.ranges == expected.ranges);
      CHECK(found.dropped == expected.dropped);
      CHECK(found.n_scored == expected.n_scored);
      check_covers(head, found);
    }
    const Policy policy = sparsity_policy(calibration, 0.8, kScale);
    CHECK(apply(policy, 0, 0, head, queries, 1).n_keys < apply(policy, 0, 0, head, queries, 30).n_keys);
  }

  TEST_CASE("flat scores every leaf, and nothing above") {
    const MadeContext made(1, 200, 8, DType::f32, {{.count = 5}, {.count = 20}});
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({2, 8}, 2);
    const Calibration calibration = made_calibration(1);
    const Policy flat = make_policy("flat", {.value = 0.8, .calibration = &calibration, .softmax_scale = kScale});
    const Selection selection = apply(flat, 0, 0, head, queries, 1);
    CHECK(selection.n_scored == head.levels[1].n_clusters());
    SelectionRule rule;
    rule.rule = Rule::threshold;
    rule.thresholds = {-std::numeric_limits<float>::infinity(), calibration.blocks[0].flat[1].at(0.8)};
    CHECK(selection.ranges == select_clusters(head, queries, kScale, rule).ranges);
  }

  TEST_CASE("sparsity 0 reads everything") {
    const MadeContext made(1, 100, 8, DType::f32, {{.count = 9}});
    const HeadView head = made.layer.head(0);
    const Selection selection =
        apply(sparsity_policy(made_calibration(0), 0, kScale), 0, 0, head, random_tensor({1, 8}, 1), 1);
    CHECK(selection.n_keys == head.n_clustered());
    CHECK(selection.dropped.empty());
  }

  TEST_CASE("top-k reads at most k keys of the best clusters") {
    const MadeContext made(1, 300, 8, DType::f32, {{.count = 30}});
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({4, 8}, 2);
    const Calibration calibration = made_calibration(0);
    for (const int64_t k : {30, 100, 288}) {
      const Selection selection = apply(top_k_policy(calibration, k, kScale), 0, 0, head, queries, 1);
      CHECK(selection.n_keys <= k);
      check_covers(head, selection);
    }
    CHECK(apply(top_k_policy(calibration, 1000, kScale), 0, 0, head, queries, 1).n_keys == head.n_clustered());
  }

  TEST_CASE("a context without clusters is read whole by every policy") {
    const Tensor keys = random_tensor({20, 8}, 1);
    HeadView head;
    head.keys = head.values = keys;
    head.n_sinks = 20;
    const Calibration calibration = made_calibration(0);
    for (const PolicyEntry& entry : policies()) {
      const double value = entry.name == std::string("top-k") ? 1 : 0.5;
      const Policy policy =
          make_policy(entry.name, {.value = value, .calibration = &calibration, .softmax_scale = kScale});
      const Selection selection = apply(policy, 0, 0, head, random_tensor({1, 8}, 1), 1);
      CHECK(selection.ranges.empty());
      CHECK(selection.n_scored == 0);
    }
    head.n_sinks = 4;  // clustered rows, but no clusters
    const Policy sparse = sparsity_policy(calibration, 0.5, kScale);
    CHECK_THROWS_WITH_AS(apply(sparse, 0, 0, head, random_tensor({1, 8}, 1), 1), doctest::Contains("no clusters"),
                         Error);
  }

  TEST_CASE("the table makes every policy by its name") {
    const MadeContext made(1, 200, 8, DType::f32, {{.count = 5}, {.count = 20}});
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({2, 8}, 2);
    const Calibration calibration = made_calibration(1);
    const auto keys_of = [&](const char* name, double value) {
      const Policy policy = make_policy(name, {.value = value, .calibration = &calibration, .softmax_scale = kScale});
      const Selection selection = apply(policy, 0, 0, head, queries, 1);
      if (find_policy(name).drops_clusters()) check_covers(head, selection);
      return selection.n_keys;
    };
    CHECK(policies().size() == 10);
    CHECK(keys_of("dense", 0) == head.n_clustered());
    CHECK(keys_of("sparsity", 0) == head.n_clustered());
    CHECK(keys_of("threshold", 0) == head.n_clustered());
    CHECK(keys_of("threshold", 1) == 0);
    CHECK(keys_of("top-k", 50) <= 50);
    CHECK(keys_of("top-p", 1) == head.n_clustered());
    CHECK(keys_of("top-p", 0) == 0);
    CHECK(keys_of("top-p", 0.3) <= keys_of("top-p", 0.6));
    for (const char* name : {"quest", "window", "oracle"}) {
      CHECK(keys_of(name, 1) == head.n_clustered());
      CHECK(keys_of(name, 50) <= 50);
    }
  }

  TEST_CASE("dense layers read everything, the others what their policy says") {
    const MadeContext made(1, 200, 8, DType::f32, {{.count = 20}});
    const HeadView head = made.layer.head(0);
    const Tensor queries = random_tensor({2, 8}, 2);
    const Policy sparse = top_k_policy(made_calibration(0), 50, kScale);
    const Policy mixed = with_dense_layers(sparse, {0, 3});
    const int64_t few = apply(sparse, 0, 0, head, queries, 1).n_keys;
    CHECK(few <= 50);
    for (int layer = 0; layer < 5; ++layer) {
      const Selection selection = apply(mixed, layer, 0, head, queries, 1);
      const bool dense = layer == 0 || layer == 3;
      CHECK(selection.n_keys == (dense ? head.n_clustered() : few));
      CHECK((selection.n_scored == 0) == dense);
      CHECK(apply(with_dense_layers(sparse, {}), layer, 0, head, queries, 1).n_keys == few);
    }
  }

  TEST_CASE("values out of range, unknown names and a missing calibration are refused") {
    const Calibration calibration = made_calibration(0);
    const auto make = [&](const char* name, double value) {
      return make_policy(name, {.value = value, .calibration = &calibration, .softmax_scale = kScale});
    };
    CHECK_THROWS_WITH_AS(make("quantum", 1),
                         doctest::Contains("dense, sparsity, flat, threshold, top-k, top-p, budget"), Error);
    CHECK_THROWS_AS(make("sparsity", 1), Error);
    CHECK_THROWS_AS(make("sparsity", -0.1), Error);
    CHECK_THROWS_AS(make("sparsity", std::nan("")), Error);
    CHECK_THROWS_AS(make("threshold", 1.5), Error);
    CHECK_THROWS_AS(make("top-k", 0), Error);
    CHECK_THROWS_AS(make("top-p", 1.01), Error);
    for (const char* name : {"quest", "window", "oracle"}) {
      CHECK_THROWS_WITH_AS(make(name, 0), doctest::Contains(name), Error);
      CHECK_THROWS_AS(make(name, INFINITY), Error);
    }
    CHECK_THROWS_WITH_AS(make_policy("sparsity", {.value = 0.5}), doctest::Contains("no calibration"), Error);
  }
}

}  // namespace squeeze
