// Tests of the index's laws: a good head has no violation, and each broken law is found.
#include <doctest/doctest.h>

#include <algorithm>

#include "lib/index/verify.hpp"
#include "tests/made_layer.hpp"

using namespace squeeze;

namespace {

struct Made {
  Tensor keys = topic_keys(2, 200, 8, 10, 1, DType::bf16);
  Tensor values = random_tensor({2, 200, 8}, 2, DType::bf16);
  IndexLayer layer = build_layer(keys, values, options_with({{0, 4}, {0, 20}}));

  HeadIndex& head() { return layer.heads[0]; }
  std::vector<std::string> violations() { return verify_layer(heads_of(layer), keys, values); }
  bool finds(const std::string& law) {
    const auto found = violations();
    return std::any_of(found.begin(), found.end(), [&](const std::string& sentence) {
      return sentence.find(law) != std::string::npos && sentence.find("KV head 0") == 0;
    });
  }
};

void add_to(Tensor& tensor, int64_t i, float amount) {
  store_element(tensor.data(), tensor.dtype(), i, load_element(tensor.data(), tensor.dtype(), i) + amount);
}

}  // namespace

TEST_SUITE("verify") {
  TEST_CASE("a built layer breaks no law") { CHECK(Made().violations().empty()); }

  TEST_CASE("rows that are no permutation, or move a pinned token") {
    Made twice;
    twice.head().token_of_row[20] = twice.head().token_of_row[21];
    CHECK(twice.finds("not a permutation"));
    Made outside;
    outside.head().token_of_row[20] = 200;
    CHECK(outside.finds("not a permutation"));
    Made pinned;
    std::swap(pinned.head().token_of_row[0], pinned.head().token_of_row[1]);
    CHECK(pinned.finds("pinned row 0"));
  }

  TEST_CASE("levels that do not cover the clustered rows") {
    Made empty_cluster;
    empty_cluster.head().levels[1].first_row[3] = empty_cluster.head().levels[1].first_row[2];
    CHECK(empty_cluster.finds("level 1: its clusters do not cover"));
    Made short_cover;
    short_cover.head().levels[0].first_row.back() -= 1;
    CHECK(short_cover.finds("level 0: its clusters do not cover"));
    Made child;
    child.head().levels[0].first_child[1] += 1;
    CHECK(child.finds("do not cover its rows"));
    Made missing_children;
    missing_children.head().levels[0].first_child.pop_back();
    CHECK(missing_children.finds("its children are not"));
  }

  TEST_CASE("a leaf whose rows do not ascend by token") {
    Made made;
    const auto& first_row = made.head().levels.back().first_row;
    for (size_t leaf = 0;; ++leaf) {
      REQUIRE(leaf + 1 < first_row.size());
      if (first_row[leaf + 1] - first_row[leaf] < 2) continue;
      std::swap(made.head().token_of_row[static_cast<size_t>(first_row[leaf])],
                made.head().token_of_row[static_cast<size_t>(first_row[leaf]) + 1]);
      break;
    }
    CHECK(made.finds("do not ascend"));
    CHECK(made.finds("differs from token"));
  }

  TEST_CASE("means that are off by more than rounding") {
    for (const size_t level : {0, 1}) {
      Made centroid;
      add_to(centroid.head().levels[level].centroids, 9, 0.1f);
      CHECK(centroid.finds("the centroid of cluster 1 is not"));
      Made value_mean;
      add_to(value_mean.head().levels[level].value_means, 9, 0.1f);
      CHECK(value_mean.finds("the value mean of cluster 1 is not"));
    }
    Made nan;
    add_to(nan.head().levels[0].centroids, 0, NAN);
    CHECK(nan.finds("the centroid of cluster 0 is not"));
  }

  TEST_CASE("rows that differ from the dump") {
    Made made;
    add_to(made.keys, 50 * 8, 1.0f);
    CHECK(made.finds("keys: row"));
    made.keys = convert(made.keys, DType::f32);
    CHECK(made.finds("the dump's keys are f32"));
    CHECK(verify_layer(heads_of(made.layer), made.keys[0], made.values).size() == 1);
  }

  TEST_CASE("shapes that do not fit are reported, not read") {
    Made made;
    HeadView head = made.layer.head(0);
    head.token_of_row = head.token_of_row.first(10);
    CHECK(verify_head(head).size() == 1);
    head = made.layer.head(0);
    head.levels[1].centroids = head.levels[0].centroids;
    CHECK(verify_head(head).size() == 1);
    head.levels.clear();
    CHECK(verify_head(head).size() == 1);
    head.n_window = 198;
    CHECK(verify_head(head).size() == 2);
    CHECK(verify_head(HeadView{}).size() == 1);
  }
}
