// Tests of what the library does on a CUDA device, with emulated kernels: clusters as good as the CPU's, the index's
// laws.
#include <doctest/doctest.h>

#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/verify.hpp"
#include "tests/clustered_points.hpp"
#include "tests/made_layer.hpp"

using namespace squeeze;

namespace {

Partition clustered(const Tensor& points, bool cuda, int64_t n_clusters = 40, std::span<const float> weights = {}) {
  KmeansOptions options;
  options.iterations = 5;
  options.cuda = cuda;
  return kmeans(points.clone(), weights, n_clusters, options);
}

}  // namespace

TEST_SUITE("cuda_library") {
  TEST_CASE("clusters are as tight as those of the CPU") {
    Tensor points = clustered_points(600, 64, 30, 1);
    normalise_points(points);
    const Partition cpu = clustered(points, false), cuda = clustered(points, true);
    CHECK(cuda.n_clusters > 36);
    CHECK(inertia(points, cuda) < 1.05 * inertia(points, cpu));
    CHECK(clustered(points, true).cluster_of == cuda.cluster_of);
    std::vector<float> weights(600, 1.0f);
    CHECK(clustered(points, true, 40, weights).cluster_of == cuda.cluster_of);
    for (size_t i = 0; i < weights.size(); i += 3) weights[i] = 20;
    CHECK(inertia(points, clustered(points, true, 40, weights), weights) < inertia(points, cuda, weights));
  }

  TEST_CASE("equal points leave one cluster") {
    Tensor points(DType::f32, {20, 64});
    for (int64_t i = 0; i < points.n_elements(); ++i) points.f32()[i] = 1;
    CHECK(clustered(points, true, 5).n_clusters == 1);
  }

  TEST_CASE("a layer built on the device breaks no law, for any number of threads") {
    const Tensor keys = topic_keys(2, 300, 64, 10, 1, DType::bf16),
                 values = random_tensor({2, 300, 64}, 2, DType::bf16);
    IndexOptions options = options_with({{0, 5}, {0, 24}});
    options.iterations = 3;
    options.cuda = true;
    options.sketch_group = 4;
    const IndexLayer layer = build_layer(keys, values, options);
    CHECK(verify_layer(heads_of(layer), keys, values).empty());
    const int before = n_threads();
    set_threads(1);
    const IndexLayer again = build_layer(keys, values, options);
    set_threads(before);
    for (size_t h = 0; h < 2; ++h) CHECK(again.heads[h].token_of_row == layer.heads[h].token_of_row);
  }

  TEST_CASE("what the device cannot do is an error") {
    KmeansOptions options;
    options.cuda = true;
    CHECK_THROWS_WITH_AS(kmeans(random_tensor({50, 80}, 1), {}, 5, options),
                         "k-means on a CUDA device takes heads of 64, 96, 128 or 256 dimensions, found 80", Error);
    options.metric = Metric::l2;
    CHECK_THROWS_AS(kmeans(random_tensor({50, 64}, 1), {}, 5, options), Error);
  }
}
