// Tests of k-means: planted groups, degenerate inputs, weights, threads.
#include <doctest/doctest.h>

#include <set>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/kmeans.hpp"
#include "tests/made_layer.hpp"

using namespace squeeze;

namespace {

// n points [n, 2] alternating between noisy copies of two opposite directions.
Tensor two_groups(int64_t n) {
  Tensor points = random_tensor({n, 2}, 3);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t c = 0; c < 2; ++c) points.f32()[i * 2 + c] = 0.1f * points.f32()[i * 2 + c] + (i % 2 ? 1.0f : -1.0f);
  }
  return points;
}

Tensor from(std::vector<float> x, int64_t dim) {
  Tensor points(DType::f32, {static_cast<int64_t>(x.size()) / dim, dim});
  std::copy(x.begin(), x.end(), points.f32());
  return points;
}

void check_partition(const Partition& partition, int64_t n_points, int64_t n_clusters) {
  CHECK(static_cast<int64_t>(partition.cluster_of.size()) == n_points);
  const std::set<int32_t> used(partition.cluster_of.begin(), partition.cluster_of.end());
  CHECK(static_cast<int32_t>(used.size()) == partition.n_clusters);
  CHECK(partition.n_clusters <= n_clusters);
  CHECK(*used.begin() == 0);
  CHECK(*used.rbegin() == partition.n_clusters - 1);
}

}  // namespace

TEST_SUITE("kmeans") {
  TEST_CASE("two planted groups are found from any seed") {
    for (const Metric metric : {Metric::cosine, Metric::l2}) {
      for (uint64_t seed = 0; seed < 10; ++seed) {
        const Partition found = kmeans(two_groups(40), {}, 2, {metric, 10, seed});
        check_partition(found, 40, 2);
        for (size_t i = 0; i < 40; ++i) CHECK(found.cluster_of[i] == found.cluster_of[i % 2]);
        CHECK(found.cluster_of[0] != found.cluster_of[1]);
      }
    }
  }

  TEST_CASE("with more clusters than groups no cluster mixes groups") {
    const Partition found = kmeans(two_groups(60), {}, 20, {});
    check_partition(found, 60, 20);
    std::vector<std::set<size_t>> groups(static_cast<size_t>(found.n_clusters));
    for (size_t i = 0; i < 60; ++i) groups[static_cast<size_t>(found.cluster_of[i])].insert(i % 2);
    for (const auto& group : groups) CHECK(group.size() == 1);
  }

  TEST_CASE("cosine sees directions, L2 sees lengths") {
    const std::vector<float> x = {1, 1, 10, 10, 1.1f, 1.1f, 11, 11};
    CHECK(kmeans(from(x, 2), {}, 2, {Metric::cosine}).n_clusters == 1);
    const Partition l2 = kmeans(from(x, 2), {}, 2, {Metric::l2});
    CHECK(l2.n_clusters == 2);
    CHECK(l2.cluster_of[0] == l2.cluster_of[2]);
    CHECK(l2.cluster_of[1] == l2.cluster_of[3]);
  }

  TEST_CASE("weights move the centroids") {
    // Unweighted, {0, 1} {1.9} is stable. With a heavy 0 its centroid stays at 0, and 1 is nearer to 1.9.
    const std::vector<float> x = {0, 1, 1.9f};
    const std::vector<float> weights = {100, 1, 1};
    bool unweighted_differs = false;
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const Partition weighted = kmeans(from(x, 1), weights, 2, {Metric::l2, 10, seed});
      CHECK(weighted.cluster_of[1] == weighted.cluster_of[2]);
      CHECK(weighted.cluster_of[0] != weighted.cluster_of[1]);
      const Partition plain = kmeans(from(x, 1), {}, 2, {Metric::l2, 10, seed});
      unweighted_differs |= plain.cluster_of[0] == plain.cluster_of[1];
    }
    CHECK(unweighted_differs);
  }

  TEST_CASE("degenerate points: identical, zero, few distinct, huge and tiny") {
    for (const Metric metric : {Metric::cosine, Metric::l2}) {
      for (const float value : {0.0f, 1.0f, 3e38f, 1e-38f, 1e-44f}) {
        const Partition found = kmeans(from(std::vector<float>(300, value), 3), {}, 30, {metric});
        CHECK(found.n_clusters == 1);
      }
      std::vector<float> mixed;
      for (int i = 0; i < 100; ++i)
        mixed.insert(mixed.end(), {i % 3 == 0 ? 0.0f : 3e38f, i % 3 == 1 ? -3e38f : 1e-30f});
      const Partition found = kmeans(from(mixed, 2), {}, 50, {metric});
      check_partition(found, 100, 50);
      CHECK(found.n_clusters <= 3);
      for (size_t i = 0; i < 100; ++i) CHECK(found.cluster_of[i] == found.cluster_of[i % 3]);
    }
  }

  TEST_CASE("as many clusters as points, and nearly as many") {
    for (const int64_t n_clusters : {1, 2, 97, 98, 99, 100}) {
      const Partition found = kmeans(random_tensor({100, 5}, 1), {}, n_clusters, {});
      check_partition(found, 100, n_clusters);
      if (n_clusters == 100) CHECK(found.n_clusters == 100);
    }
    CHECK(kmeans(random_tensor({1, 5}, 1), {}, 1, {}).n_clusters == 1);
  }

  TEST_CASE("the number of threads changes nothing") {
    std::vector<Partition> found;
    const int before = n_threads();
    for (const int threads : {1, 2, 3}) {
      set_threads(threads);
      found.push_back(kmeans(random_tensor({1300, 8}, 5), {}, 40, {Metric::l2}));
    }
    set_threads(before);
    CHECK(found[0].cluster_of == found[1].cluster_of);
    CHECK(found[0].cluster_of == found[2].cluster_of);
  }

  TEST_CASE("seeds differ, and any 64-bit seed is taken") {
    const auto partition = [](uint64_t seed) { return kmeans(random_tensor({200, 4}, 1), {}, 20, {{}, 3, seed}); };
    CHECK(partition(1).cluster_of == partition(1).cluster_of);
    CHECK(partition(1).cluster_of != partition(2).cluster_of);
    check_partition(partition(~uint64_t{0}), 200, 20);
  }

  TEST_CASE("more clusters than points is an error") {
    CHECK_THROWS_WITH_AS(kmeans(random_tensor({3, 2}, 1), {}, 4, {}), doctest::Contains("more clusters than keys"),
                         Error);
    CHECK_THROWS_AS(kmeans(random_tensor({3, 2}, 1), {}, 0, {}), Error);
    CHECK_THROWS_AS(kmeans(Tensor(DType::f32, {0, 2}), {}, 1, {}), Error);
  }
}
