// Tests of segments and of seeds: the laws of the tree with them, and what they promise.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/cluster_tree.hpp"
#include "lib/index/seeding.hpp"
#include "lib/index/verify.hpp"
#include "tests/made_layer.hpp"

using namespace squeeze;

namespace {

void check_segments(const std::vector<Segment>& segments, int64_t n_keys, int64_t n_leaves) {
  int64_t end = 0, dealt = 0;
  bool sound = true;
  for (const Segment& segment : segments) {
    sound = sound && segment.begin == end && segment.n_leaves >= 1 && segment.n_leaves <= segment.end - segment.begin;
    end = segment.end;
    dealt += segment.n_leaves;
  }
  CHECK(sound);
  CHECK(end == n_keys);
  CHECK(dealt == n_leaves);
}

}  // namespace

TEST_SUITE("cluster_tree") {
  TEST_CASE("segments cover all keys in order and deal out all leaves") {
    for (const int64_t n_keys : {1, 7, 100, 1000, 100001}) {
      for (const int64_t length : {0, 1, 16, 100, 333, 200000}) {
        for (const int64_t n_leaves : {int64_t{1}, (n_keys + 19) / 20, n_keys}) {
          CAPTURE(n_keys);
          CAPTURE(length);
          CAPTURE(n_leaves);
          check_segments(cut_segments(n_keys, n_leaves, length), n_keys, n_leaves);
        }
      }
    }
    CHECK(cut_segments(1000, 50, 0).size() == 1);
    CHECK(cut_segments(1049, 50, 100).size() == 10);  // 49 join the last
    CHECK(cut_segments(1050, 50, 100).size() == 11);
    CHECK(cut_segments(1000, 5, 100).size() == 5);
    CHECK(cut_segments(1000, 50, 100)[3].n_leaves == 5);
  }

  TEST_CASE("with segments the laws hold and no leaf holds keys of two") {
    const Tensor keys = topic_keys(2, 1012, 8, 12, 1);
    const Tensor values = random_tensor({2, 1012, 8}, 2);
    IndexOptions options = options_with({{0, 4}, {0, 50}});
    options.segment = 100;
    const IndexLayer layer = build_layer(keys, values, options);
    for (const std::string& violation : verify_layer(heads_of(layer), keys, values)) FAIL_CHECK(violation);
    for (const HeadView& head : heads_of(layer)) {
      const LevelView& leaves = head.levels.back();
      for (size_t leaf = 0; leaf < static_cast<size_t>(leaves.n_clusters()); ++leaf) {
        const auto first = static_cast<size_t>(leaves.first_row[leaf]);
        const auto last = static_cast<size_t>(leaves.first_row[leaf + 1]) - 1;
        CHECK((head.token_of_row[first] - 2) / 100 == (head.token_of_row[last] - 2) / 100);
      }
    }
  }

  TEST_CASE("a segment's leaves depend on nothing outside it") {
    const Tensor keys = topic_keys(1, 812, 8, 12, 1);
    IndexOptions options = options_with({{0, 40}});
    options.segment = 200;
    const std::vector<int32_t> all = cluster_keys(keys[0].slice(2, 802), {40}, options).cluster_of[0];
    const std::vector<int32_t> first = cluster_keys(keys[0].slice(2, 402), {20}, options).cluster_of[0];
    CHECK(std::equal(first.begin(), first.end(), all.begin()));
  }

  TEST_CASE("spread seeds: one per group, duplicates last, the same for any number of threads") {
    Tensor points = Tensor::zeros(DType::f32, {9000, 3});  // 8990 zeros and ten others, far from one another
    for (int64_t i = 0; i < 10; ++i) points.f32()[(900 * i + 7) * 3 + i % 3] = static_cast<float>(i + 1);
    const int before = n_threads();
    const auto seeds = [&](int threads) {
      set_threads(threads);
      const Tensor found = spread_seeds(points, {}, 11, 1);
      std::vector<float> sums;
      for (int64_t i = 0; i < 11; ++i)
        sums.push_back(found.f32()[i * 3] + found.f32()[i * 3 + 1] + found.f32()[i * 3 + 2]);
      return sums;
    };
    std::vector<float> one = seeds(1);
    CHECK(one == seeds(2));
    set_threads(before);
    std::sort(one.begin(), one.end());
    CHECK(one == std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10});
    CHECK(spread_seeds(Tensor::zeros(DType::f32, {20, 3}), {}, 20, 1).size(0) == 20);  // nothing to choose between
  }

  TEST_CASE("the number of threads changes nothing") {
    const int before = n_threads();
    const Tensor keys = topic_keys(1, 1400, 4, 20, 1, DType::bf16);
    IndexOptions options = options_with({{0, 7}, {0.05, 0}});
    options.segment = 300;
    const auto clusters = [&](int threads) {
      set_threads(threads);
      return cluster_keys(keys[0], {7, 70}, options).cluster_of;
    };
    CHECK(clusters(1) == clusters(2));
    set_threads(before);
  }

  TEST_CASE("options that cannot work are refused") {
    IndexOptions options = options_with({{0.05, 0}});
    options.segment = -1;
    CHECK_THROWS_WITH_AS(check_options(options, 200), doctest::Contains("segment"), Error);
  }
}
