// Tests of cluster_sizes: every leaf and every clustered key is in one bin.
#include "lib/eval/cluster_sizes.hpp"

#include <doctest/doctest.h>

#include "tests/made_attention.hpp"

namespace squeeze {

TEST_SUITE("cluster_sizes") {
  TEST_CASE("leaves of known sizes fall into bins that double") {
    const std::vector<int32_t> first_row{0, 1, 2, 4, 7, 11, 26};  // sizes 1, 1, 2, 3, 4, 15
    HeadView head;
    head.levels.push_back({{}, {}, first_row, {}});
    const std::vector<SizeBin> bins = leaf_sizes({{}, {{head}, {head}}});
    REQUIRE(bins.size() == 4);
    const int64_t clusters[] = {4, 4, 2, 2}, keys[] = {4, 10, 8, 30}, to[] = {1, 3, 7, 15};
    for (size_t i = 0; i < 4; ++i) {
      CHECK(bins[i].n_clusters == clusters[i]);
      CHECK(bins[i].n_keys == keys[i]);
      CHECK(bins[i].to == to[i]);
    }
    CHECK(leaf_sizes({}).empty());
  }

  TEST_CASE("the bins of an index hold its clustered keys") {
    const MadeContext made(2, 200, 8, DType::f32, {{.count = 4}, {.count = 30}});
    const std::vector<SizeBin> bins = leaf_sizes({{}, {heads_of(made.layer)}});
    int64_t n_keys = 0;
    for (const SizeBin& bin : bins) n_keys += bin.n_keys;
    CHECK(n_keys == 2 * made.layer.head(0).n_clustered());
  }
}

}  // namespace squeeze
