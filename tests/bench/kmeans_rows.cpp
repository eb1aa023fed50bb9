// K-means of one head's keys, 5 % clusters, 10 iterations, beside an exact one: Faiss' flat k-means where it was found.
#include <fmt/format.h>

#ifdef SQUEEZE_HAS_FAISS
#include <dlfcn.h>
#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <omp.h>

#include <filesystem>
#include <limits>
#endif

#include "lib/core/elapsed.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/kmeans.hpp"
#include "tests/bench/bench.hpp"
#include "tests/clustered_points.hpp"
#include "tests/planted_keys.hpp"

#ifdef SQUEEZE_HAS_FAISS
extern "C" int sgemm_();  // of the BLAS that Faiss calls
#endif

namespace squeeze {
namespace {

constexpr int64_t kDim = 128, kPointsPerCluster = 20;
constexpr int kIterations = 10, kSeed = 1;

struct Clustering {
  Partition partition;
  double ms = 0;
};

template <class Cluster>
Clustering timed(const Cluster& cluster) {
  const auto start = std::chrono::steady_clock::now();
  Partition partition = cluster();
  return {std::move(partition), ms_since(start)};
}

Clustering ours(const Tensor& points, bool exact) {
  KmeansOptions options{Metric::cosine, kIterations, kSeed};
  options.exact = exact;
  return timed([&] { return kmeans(points.clone(), {}, points.size(0) / kPointsPerCluster, options); });
}

#ifdef SQUEEZE_HAS_FAISS
Partition faiss_kmeans(const Tensor& points, int threads) {
  const auto n_clusters = static_cast<int>(points.size(0) / kPointsPerCluster);
  faiss::ClusteringParameters parameters;
  parameters.niter = kIterations;
  parameters.spherical = true;
  parameters.min_points_per_centroid = 1;
  parameters.max_points_per_centroid = std::numeric_limits<int>::max();
  parameters.seed = kSeed;
  faiss::Clustering clustering(kDim, n_clusters, parameters);
  faiss::IndexFlat index(kDim, faiss::METRIC_INNER_PRODUCT);
  omp_set_num_threads(threads);
  clustering.train(points.size(0), points.f32(), index);
  std::vector<faiss::Index::idx_t> labels(static_cast<size_t>(points.size(0)));
  std::vector<float> distances(labels.size());
  index.search(points.size(0), points.f32(), 1, distances.data(), labels.data());
  omp_set_num_threads(1);
  return {{labels.begin(), labels.end()}, n_clusters};
}

// The file that sgemm comes from, which says how fast Faiss can be.
std::string blas_file() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&sgemm_), &info) || !info.dli_fname) return "an unknown BLAS";
  const auto file = std::filesystem::weakly_canonical(info.dli_fname);
  return (file.parent_path().filename() / file.filename()).string();
}

std::string yardstick_name() { return "Faiss (" + blas_file() + ")"; }

Clustering yardstick(const Tensor& points, int threads) {
  return timed([&] { return faiss_kmeans(points, threads); });
}
#else
std::string yardstick_name() { return "an exact assignment"; }

Clustering yardstick(const Tensor& points, int) { return ours(points, true); }
#endif

// planted: passages of topics and subtopics; mixture: 3000 Gaussians far apart; noise: nothing to find.
Tensor made_points(const std::string& kind, int64_t n) {
  Tensor points = kind == "planted" ? convert(PlantedKeys({.n_tokens = n, .dim = kDim}).make().keys[0], DType::f32)
                                    : clustered_points(n, kDim, kind == "mixture" ? 3000 : 0, 1);
  normalise_points(points);
  return points;
}

void add_row(Bench& bench, const std::string& name, const std::string& kind, int threads) {
  const Tensor points = made_points(kind, bench.options().max_tokens);
  const Clustering expected = yardstick(points, threads), found = ours(points, false);
  const double ratio = inertia(points, found.partition) / inertia(points, expected.partition);
  if (!(ratio < 1.1)) fail("{}: the inertia is {:.3f} times that of {}", name, ratio, yardstick_name());
  bench.add({name,
             found.ms,
             0,
             threads,
             {},
             {},
             fmt::format("{:.1f} times faster than {}, inertia {:.4f} of its", expected.ms / found.ms, yardstick_name(),
                         ratio)});
}

}  // namespace

void kmeans_rows(Bench& bench) {
  const int threads = bench.options().threads.back();
  set_threads(threads);
  for (const std::string kind : {"planted", "mixture", "noise"}) {
    const std::string name = fmt::format("k-means {}K x {}, {}", bench.options().max_tokens / 1024, kDim, kind);
    if (bench.wants(name)) add_row(bench, name, kind, threads);
  }
}

}  // namespace squeeze
