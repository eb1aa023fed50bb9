// Tests of building a layer: the laws of the tree, hand-made means, degenerate keys, options, threads.
#include <doctest/doctest.h>

#include <cstring>
#include <set>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/build.hpp"
#include "lib/index/layout.hpp"
#include "lib/index/verify.hpp"
#include "tests/made_layer.hpp"

using namespace squeeze;

namespace {

bool same_bytes(TensorView a, TensorView b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.data(), b.data(), a.n_bytes()) == 0;
}

bool same(const IndexLayer& a, const IndexLayer& b) {
  if (!same_bytes(a.keys, b.keys) || !same_bytes(a.values, b.values) || a.heads.size() != b.heads.size()) return false;
  for (size_t h = 0; h < a.heads.size(); ++h) {
    const HeadIndex& x = a.heads[h];
    const HeadIndex& y = b.heads[h];
    if (x.token_of_row != y.token_of_row || x.inertia != y.inertia || x.levels.size() != y.levels.size()) return false;
    for (size_t l = 0; l < x.levels.size(); ++l) {
      if (x.levels[l].first_row != y.levels[l].first_row || x.levels[l].first_child != y.levels[l].first_child ||
          !same_bytes(x.levels[l].centroids, y.levels[l].centroids) ||
          !same_bytes(x.levels[l].value_means, y.levels[l].value_means)) {
        return false;
      }
    }
  }
  return true;
}

void check_laws(const IndexLayer& layer, TensorView keys, TensorView values) {
  for (const std::string& violation : verify_layer(heads_of(layer), keys, values)) FAIL_CHECK(violation);
}

}  // namespace

TEST_SUITE("build") {
  TEST_CASE("the laws hold for every type, metric and number of levels") {
    const std::vector<std::vector<ClusterCount>> trees = {
        {{0.1, 0}}, {{0.02, 0}, {0.1, 0}}, {{0, 2}, {0, 9}, {0, 40}}, {{0, 1}, {0, 288}}};
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      const Tensor keys = topic_keys(2, 300, 8, 12, 1, dtype);
      const Tensor values = random_tensor({2, 300, 8}, 2, dtype);
      for (const Metric metric : {Metric::cosine, Metric::l2}) {
        for (const auto& tree : trees) {
          IndexOptions options = options_with(tree);
          options.metric = metric;
          const IndexLayer layer = build_layer(keys, values, options);
          check_laws(layer, keys, values);
          for (const HeadIndex& head : layer.heads) {
            CHECK(head.levels.size() == tree.size());
            CHECK(head.levels.back().first_row.front() == 2);
            CHECK(head.levels.back().first_row.back() == 290);
            CHECK(head.inertia >= 0);
          }
        }
      }
    }
  }

  TEST_CASE("means by hand, and a coarse centroid is the mean of all keys below") {
    // Three tight groups of 1, 2 and 3 keys; the first two share a half-plane that the coarse level finds.
    const std::vector<float> x = {4, 0, 4, 0, 0, 2, 0, 2, 0, 4, -6, 0, -6, 0, -6, 0};
    const std::vector<float> y = {9, 9, 1, 1, 2, 3, 4, 5, 9, 9, 7, 0, 8, 0, 9, 0};
    Tensor keys(DType::f32, {1, 8, 2});
    Tensor values(DType::f32, {1, 8, 2});
    std::copy(x.begin(), x.end(), keys.f32());
    std::copy(y.begin(), y.end(), values.f32());
    const IndexLayer layer = build_layer(keys, values, options_with({{0, 1}, {0, 3}}, 1, 0));
    check_laws(layer, keys, values);
    const Level& root = layer.heads[0].levels[0];
    CHECK(root.first_row == std::vector<int32_t>{1, 8});
    CHECK(root.centroids.f32()[0] == doctest::Approx(-2));       // (4 - 6 * 3) / 7; the mean of means is -2/3
    CHECK(root.centroids.f32()[1] == doctest::Approx(8.0 / 7));  // (2 + 2 + 4) / 7
    CHECK(root.value_means.f32()[0] == doctest::Approx(40.0 / 7));
  }

  TEST_CASE("coarse levels weigh a leaf by its keys") {
    // As many leaves as keys leave one per distinct key. The heavy 0 holds its centroid, so 1 goes with 1.9.
    Tensor keys = Tensor::zeros(DType::f32, {1, 102, 1});
    keys.f32()[100] = 1;
    keys.f32()[101] = 1.9f;
    for (uint64_t seed = 0; seed < 10; ++seed) {
      IndexOptions options = options_with({{0, 2}, {0, 102}}, 0, 0);
      options.metric = Metric::l2;
      options.seed = seed;
      const IndexLayer layer = build_layer(keys, keys, options);
      const HeadIndex& head = layer.heads[0];
      REQUIRE(head.levels[0].first_row.size() == 3);
      CHECK(head.levels[1].first_row.size() == 4);
      const int32_t first = head.levels[0].first_row[1];
      CHECK((first == 100 || first == 2));
    }
  }

  TEST_CASE("tree order: sorted by parent, rows of a leaf ascend by token") {
    NestedClusters tree{{{1, 0, 1, 0, 1}, {0, 1, 2, 1, 0}}, {2, 3}};
    sort_in_tree_order(tree);
    CHECK(tree.cluster_of[1] == std::vector<int32_t>{1, 0, 2, 0, 1});
    const HeadIndex head = lay_out(tree, 1, 2);
    CHECK(head.token_of_row == std::vector<int32_t>{0, 2, 4, 1, 5, 3, 6, 7});
    CHECK(head.levels[0].first_row == std::vector<int32_t>{1, 3, 6});
    CHECK(head.levels[0].first_child == std::vector<int32_t>{0, 1, 3});
    CHECK(head.levels[1].first_row == std::vector<int32_t>{1, 3, 5, 6});
    CHECK(head.levels[1].first_child.empty());
  }

  TEST_CASE("duplicate and zero keys: no empty clusters") {
    Tensor keys = Tensor::zeros(DType::bf16, {2, 200, 4});
    for (int64_t i = 0; i < 100 * 4; ++i) store_element(keys.data(), DType::bf16, i, 1.0f);
    const Tensor values = random_tensor({2, 200, 4}, 1, DType::bf16);
    const IndexLayer layer = build_layer(keys, values, options_with({{0, 5}, {0, 50}}));
    check_laws(layer, keys, values);
    CHECK(layer.heads[0].levels.back().centroids.size(0) <= 2);  // ones and zeros
    CHECK(layer.heads[1].levels.back().centroids.size(0) == 1);
  }

  TEST_CASE("the number of threads changes nothing, nor does a second run") {
    const int before = n_threads();
    for (const int64_t n_heads : {1, 3}) {  // threads inside a head, and one head each
      const Tensor keys = topic_keys(n_heads, 1400, 4, 20, 1, DType::bf16);
      const Tensor values = random_tensor({n_heads, 1400, 4}, 2, DType::bf16);
      const IndexOptions options = options_with({{0.01, 0}, {0.05, 0}});
      set_threads(1);
      const IndexLayer one = build_layer(keys, values, options);
      CHECK(same(one, build_layer(keys, values, options)));
      set_threads(2);
      CHECK(same(one, build_layer(keys, values, options)));
      set_threads(before);
    }
  }

  TEST_CASE("inertia: zero for keys on their centroids, and smaller with more clusters") {
    const Tensor keys = topic_keys(1, 300, 8, 12, 1);
    const auto inertia = [&](int64_t n_leaves, Metric metric) {
      IndexOptions options = options_with({{0, n_leaves}});
      options.metric = metric;
      return build_layer(keys, keys, options).heads[0].inertia;
    };
    for (const Metric metric : {Metric::cosine, Metric::l2}) {
      CHECK(inertia(288, metric) == doctest::Approx(0).epsilon(1e-9));
      CHECK(inertia(50, metric) < inertia(1, metric));
    }
  }

  TEST_CASE("a share larger than the clustered tokens is cut, a count is an error") {
    CHECK(cluster_counts(options_with({{0.01, 0}, {0.05, 0}}, 4, 100), 105) == std::vector<int64_t>{1, 1});
    CHECK(cluster_counts(options_with({{0.01, 0}, {0.05, 0}}, 4, 100), 10000) == std::vector<int64_t>{100, 500});
    CHECK(cluster_counts(options_with({{1.0, 0}}, 2, 10), 100) == std::vector<int64_t>{88});
    CHECK_THROWS_WITH_AS(check_options(options_with({{0, 89}}, 2, 10), 100),
                         doctest::Contains("more clusters than keys"), Error);
    const Tensor keys = random_tensor({1, 105, 4}, 1);
    check_laws(build_layer(keys, keys, options_with({{0.01, 0}, {0.05, 0}}, 4, 100)), keys, keys);
  }

  TEST_CASE("options that cannot work are refused") {
    CHECK_THROWS_WITH_AS(check_options(options_with({{0.05, 0}}, 4, 100), 104), doctest::Contains("at least 105"),
                         Error);
    CHECK_THROWS_AS(check_options(options_with({{0.05, 0}}, 0, 0), 0), Error);
    CHECK_THROWS_AS(check_options(options_with({{0.05, 0}}, 2147483647, 2147483647), 200), Error);
    CHECK_THROWS_AS(check_options(options_with({{0.05, 0}}, -1, 10), 200), Error);
    CHECK_THROWS_AS(check_options(options_with({}), 200), Error);
    CHECK_THROWS_AS(check_options(options_with({{0.05, 0}, {0.05, 0}}), 200), Error);
    CHECK_THROWS_AS(check_options(options_with({{0, 20}, {0.05, 0}}), 200), Error);
    CHECK_THROWS_AS(check_options(options_with({{0, -3}}), 200), Error);
    CHECK_THROWS_AS(check_options(options_with({{0.0, 0}}), 200), Error);
    CHECK_THROWS_AS(check_options(options_with({{1.5, 0}}), 200), Error);
    IndexOptions options = options_with({{0.05, 0}});
    options.iterations = 0;
    CHECK_THROWS_AS(check_options(options, 200), Error);
    CHECK_NOTHROW(check_options(options_with({{0.01, 0}, {0.05, 0}}, 4, 100), 105));
  }

  TEST_CASE("keys and values that are not finite are named") {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        Tensor keys = random_tensor({2, 50, 4}, 1, dtype);
        const Tensor good = keys.clone();
        store_element(keys.data(), dtype, (50 + 7) * 4 + 3, bad);
        CHECK_THROWS_WITH_AS(build_layer(keys, good, options_with({{0, 3}})),
                             doctest::Contains("key of token 7, KV head 1"), Error);
        CHECK_THROWS_WITH_AS(build_layer(good, keys, options_with({{0, 3}})),
                             doctest::Contains("value of token 7, KV head 1"), Error);
      }
    }
  }

  TEST_CASE("shapes that do not fit are refused") {
    const Tensor keys = random_tensor({2, 50, 4}, 1);
    CHECK_THROWS_AS(build_layer(keys, random_tensor({2, 50, 5}, 1), options_with({{0, 3}})), Error);
    CHECK_THROWS_AS(build_layer(keys, convert(keys, DType::f16), options_with({{0, 3}})), Error);
    CHECK_THROWS_AS(build_layer(keys[0], keys[0], options_with({{0, 3}})), Error);
  }
}
