// kmeans: what k-means costs and how good its clusters are, beside the flat k-means of Faiss and our own exact one.
#include <faiss/Clustering.h>
#include <faiss/IndexFlat.h>
#include <fmt/format.h>
#include <omp.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/kernels.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/kmeans.hpp"
#include "tests/clustered_points.hpp"
#include "tests/planted_keys.hpp"

#include <dlfcn.h>

extern "C" int sgemm_();  // of the BLAS that Faiss calls

namespace squeeze {
namespace {

struct Options {
  int64_t n_points = 131072, dim = 128;
  double share = 0.05;
  int iterations = 10;
  int threads = n_threads();
  uint64_t seed = 1;
  std::string metric = "cosine";
  std::vector<std::string> data = {"planted", "mixture", "noise"};
  bool without_faiss = false, json = false;

  Metric metric_value() const { return metric == "l2" ? Metric::l2 : Metric::cosine; }
  int64_t n_clusters() const { return std::max<int64_t>(1, std::llround(share * static_cast<double>(n_points))); }
};

struct Row {
  std::string name;
  double seconds = 0, cpu_seconds = 0, inertia = 0;
};

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_seconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

Tensor make_points(const Options& o, const std::string& data) {
  if (data == "planted") {
    const PlantedContext context = PlantedKeys({.n_tokens = o.n_points, .dim = o.dim}).make();
    return convert(context.keys[0], DType::f32);
  }
  return clustered_points(o.n_points, o.dim, data == "mixture" ? 3000 : 0, 1);
}

Partition faiss_kmeans(const Tensor& points, const Options& o) {
  const auto dim = static_cast<int>(o.dim);
  faiss::ClusteringParameters parameters;
  parameters.niter = o.iterations;
  parameters.spherical = o.metric_value() == Metric::cosine;
  parameters.min_points_per_centroid = 1;
  parameters.max_points_per_centroid = std::numeric_limits<int>::max();
  parameters.seed = static_cast<int>(o.seed);
  faiss::Clustering clustering(dim, static_cast<int>(o.n_clusters()), parameters);
  faiss::IndexFlat index(dim, parameters.spherical ? faiss::METRIC_INNER_PRODUCT : faiss::METRIC_L2);
  omp_set_num_threads(o.threads);
  clustering.train(o.n_points, points.f32(), index);
  std::vector<faiss::Index::idx_t> labels(static_cast<size_t>(o.n_points));
  std::vector<float> distances(labels.size());
  index.search(o.n_points, points.f32(), 1, distances.data(), labels.data());
  omp_set_num_threads(1);
  return {{labels.begin(), labels.end()}, static_cast<int32_t>(o.n_clusters())};
}

template <class Cluster>
Row measure(const std::string& name, const Tensor& points, const Cluster& cluster) {
  const double wall = wall_seconds(), cpu = cpu_seconds();
  const Partition partition = cluster();
  Row row{name, wall_seconds() - wall, cpu_seconds() - cpu};
  row.inertia = inertia(points, partition);
  return row;
}

std::vector<Row> measure_all(const Options& o, const std::string& data) {
  Tensor points = make_points(o, data);
  if (o.metric_value() == Metric::cosine) normalise_points(points);
  const auto ours = [&](bool exact) {
    KmeansOptions options{o.metric_value(), o.iterations, o.seed};
    options.exact = exact;
    return kmeans(points.clone(), {}, o.n_clusters(), options);
  };
  std::vector<Row> rows;
  if (!o.without_faiss) rows.push_back(measure("Faiss, flat", points, [&] { return faiss_kmeans(points, o); }));
  rows.push_back(measure("ours, exact", points, [&] { return ours(true); }));
  rows.push_back(measure("ours", points, [&] { return ours(false); }));
  return rows;
}

// The file that sgemm comes from, which says how fast Faiss can be.
std::string blas_file() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(&sgemm_), &info) || !info.dli_fname) return "unknown";
  return std::filesystem::weakly_canonical(info.dli_fname).string();
}

void print_table(const std::string& data, const std::vector<Row>& rows) {
  const Row& first = rows.front();
  for (const Row& row : rows) {
    fmt::print("{:>8}  {:<12}  {:>8.2f}  {:>8.2f}  {:>7.1f}  {:>12.6g}  {:>7.4f}\n", data, row.name, row.seconds,
               row.cpu_seconds, first.seconds / row.seconds, row.inertia, row.inertia / first.inertia);
  }
  std::fflush(stdout);
}

void print_json(const std::string& data, const std::vector<Row>& rows) {
  const Row& first = rows.front();
  for (const Row& row : rows) {
    const nlohmann::ordered_json line = {{"data", data},
                                         {"name", row.name},
                                         {"seconds", row.seconds},
                                         {"cpu_seconds", row.cpu_seconds},
                                         {"speed_up", first.seconds / row.seconds},
                                         {"inertia", row.inertia},
                                         {"inertia_ratio", row.inertia / first.inertia}};
    fmt::print("{}\n", line.dump());
  }
  std::fflush(stdout);
}

int run(const Options& o) {
  set_threads(o.threads);
  if (o.json) {
    const nlohmann::ordered_json line = {
        {"points", o.n_points}, {"dim", o.dim},         {"clusters", o.n_clusters()}, {"iterations", o.iterations},
        {"metric", o.metric},   {"threads", o.threads}, {"isa", kernels().isa},       {"blas", blas_file()}};
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("{} points of {} dimensions, {} clusters, {} iterations, {}, {} threads, {}\nBLAS of Faiss: {}\n",
               o.n_points, o.dim, o.n_clusters(), o.iterations, o.metric, o.threads, kernels().isa, blas_file());
    fmt::print("{:>8}  {:<12}  {:>8}  {:>8}  {:>7}  {:>12}  {:>7}\n", "data", "", "seconds", "cpu s", "faster",
               "inertia", "ratio");
  }
  for (const std::string& data : o.data) {
    const std::vector<Row> rows = measure_all(o, data);
    o.json ? print_json(data, rows) : print_table(data, rows);
  }
  return 0;
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) {
  CLI::App app("K-means over made-up keys: seconds and inertia, beside Faiss' flat k-means and our exact one.");
  squeeze::Options o;
  app.add_option("--points", o.n_points, "Keys")->capture_default_str();
  app.add_option("--dim", o.dim, "Their dimensions")->capture_default_str();
  app.add_option("--share", o.share, "Clusters, as a share of the keys")->capture_default_str();
  app.add_option("--iterations", o.iterations, "Iterations")->capture_default_str();
  app.add_option("--seed", o.seed, "Seed of all three")->capture_default_str();
  app.add_option("--metric", o.metric, "As of squeeze-build")
      ->check(CLI::IsMember({"cosine", "l2"}))
      ->capture_default_str();
  app.add_option("--data", o.data, "Kinds of keys: planted (topics and subtopics), mixture (3000 Gaussians), noise")
      ->check(CLI::IsMember({"planted", "mixture", "noise"}))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "Of all three")->capture_default_str();
  app.add_flag("--without-faiss", o.without_faiss, "Compare with our exact one only");
  app.add_flag("--json", o.json, "One line of JSON for the run, then one per row");
  CLI11_PARSE(app, argc, argv);
  return squeeze::run(o);
}
