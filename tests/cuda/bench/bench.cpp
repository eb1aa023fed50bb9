// The benchmark of the CUDA kernels: checks, then times, decoding dense and sparse, and lookups. A call is captured as
// a graph over several layers, as a model would decode; times are medians of replays, per layer.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "kernels/cuda/cuda.hpp"
#include "kernels/cuda/kmeans.hpp"
#include "kernels/cuda/matmul.hpp"
#include "tests/cuda/bench/bench.hpp"
#include "tests/cuda/bench/decode_call.hpp"
#include "tests/cuda/bench/model_rows.hpp"
#include "tests/cuda/bench/prefill_call.hpp"

namespace squeeze::cuda_bench {
namespace {

std::string percent(double share, const char* what) {
  char text[64];
  std::snprintf(text, sizeof text, "%.2f %% %s", 100 * share, what);
  return text;
}

// Milliseconds per layer.
double layer_ms(Bench& bench, const MadeIndex& index, const std::function<void(int, Stream)>& run) {
  const double ms = bench.replay_ms([&](Stream stream) {
    for (int layer = 0; layer < index.n_layers; ++layer) run(layer, stream);
  });
  return ms / index.n_layers;
}

struct Setting {
  const char* name;
  Mode mode;
  double share;
};
constexpr Setting kSettings[] = {{"dense", Mode::dense, 1},
                                 {"sparsity 70 %", Mode::sparse, 0.3},
                                 {"sparsity 90 %", Mode::sparse, 0.1},
                                 {"sparsity 95 %", Mode::sparse, 0.05},
                                 {"budget 5 %", Mode::sketches, 0.05}};

void add_decode_rows(Bench& bench, const Shape& shape) {
  bool wanted = false;
  for (const Setting& setting : kSettings) wanted = wanted || bench.wants("decode " + shape.str() + " " + setting.name);
  if (!wanted) return;
  const MadeIndex index(shape, false);
  double dense_ms = 0;
  for (const Setting& setting : kSettings) {
    const std::string name = "decode " + shape.str() + " " + setting.name;
    if (!bench.wants(name) && setting.mode != Mode::dense) continue;
    const DecodeCall call(index, setting.mode, setting.share);
    bench.run_once([&](Stream stream) { call.run_layer(0, stream); });
    const double error = call.largest_error(0);
    if (!(error < 1e-4)) throw std::runtime_error(name + ": differs from the reference by " + std::to_string(error));
    const CallBytes bytes = call.bytes();
    const double ms = layer_ms(bench, index, [&](int layer, Stream stream) { call.run_layer(layer, stream); });
    if (setting.mode == Mode::dense) dense_ms = ms;
    const double gbps = double(bytes.total()) / ms / 1e6;
    const double budget = double(bytes.total()) / double(shape.kv_bytes());
    bench.add({name, 1e3 * ms, gbps, gbps / bench.copy_gbps(), setting.mode == Mode::dense ? 0 : dense_ms / ms,
               setting.mode == Mode::dense ? "" : percent(budget, "of the KV bytes")});
  }
}

// Questions of many tokens over one layer; dense ones have no lookup. Ratios are to our own dense kernel: PyTorch's is
// in scripts/bench_cuda_peers.py.
void add_prefill_rows(Bench& bench, const Shape& shape) {
  for (const int n_queries : {1 << 10, 1 << 12}) {
    const std::string name = "prefill " + std::to_string(n_queries >> 10) + "K " + shape.str();
    if (!bench.wants(name)) continue;
    const MadeIndex index(shape, false);
    double dense_ms = 0;
    for (const double share : {1.0, 0.1}) {
      const PrefillCall call(index, n_queries, share);
      bench.run_once([&](Stream stream) { call.run_layer(0, stream); });
      const double error = call.largest_error(0);
      if (!(error < 2e-2)) throw std::runtime_error(name + ": differs from the reference by " + std::to_string(error));
      const double ms = bench.replay_ms([&](Stream stream) { call.run_layer(0, stream); }, 5);
      if (share == 1) dense_ms = ms;
      char note[64];
      std::snprintf(note, sizeof note, "%.0f TFLOP/s of attention", call.attention_flops() / ms / 1e9);
      bench.add(
          {name + (share == 1 ? " dense" : " sparsity 90 %"), 1e3 * ms, 0, 0, share == 1 ? 0 : dense_ms / ms, note});
    }
  }
}

void add_lookup_rows(Bench& bench) {
  double first_ms = 0;
  for (const bool coarse : {false, true}) {
    for (const int64_t n_tokens : {int64_t{1} << 16, int64_t{1} << 18, int64_t{1} << 20}) {
      const Shape shape{32, 8, n_tokens};
      const std::string name = "lookup " + shape.str() + (coarse ? " two levels" : " flat");
      if (!bench.wants(name)) continue;
      const MadeIndex index(shape, coarse, false);
      const DecodeCall call(index, Mode::sparse, 0.02);
      bench.run_once([&](Stream stream) { call.lookup_only(0, stream); });
      const double bytes = double(call.bytes().index);
      const double ms = layer_ms(bench, index, [&](int layer, Stream stream) { call.lookup_only(layer, stream); });
      if (n_tokens == 1 << 16) first_ms = ms;
      char note[64];
      std::snprintf(note, sizeof note, "%.2f times 64K", ms / first_ms);
      bench.add({name, 1e3 * ms, bytes / ms / 1e6, bytes / ms / 1e6 / bench.copy_gbps(), 0, note});
    }
  }
}

// One head: 128K keys of dim 128, 5 % clusters, 10 iterations.
void add_kmeans_row(Bench& bench) {
  const std::string name = "k-means 128K x 128, 5 %, 10 iterations";
  if (!bench.wants(name)) return;
  constexpr int kPoints = 1 << 17, kClusters = kPoints / 20, kIterations = 10;
  const std::vector<uint16_t> keys = random_rows(kPoints);
  std::vector<float> first(size_t(kClusters) * kDim);
  for (size_t i = 0; i < first.size(); ++i) first[i] = bf16_to_f32(keys[i / kDim * 20 * kDim + i % kDim]);
  const DeviceArray<uint16_t> rows(keys), points(keys.size());
  const DeviceArray<float> begin(first), centroids(first.size()), best(kPoints);
  const DeviceArray<int32_t> nearest(kPoints);
  const DeviceArray<char> workspace(cuda::kmeans_workspace_bytes(kClusters, kDim));
  const auto work = [&](Stream stream) {
    cuda::copy_on_device(centroids.data(), begin.data(), first.size() * sizeof(float), stream);
    cuda::normalise_rows(rows.data(), DType::bf16, kPoints, kDim, points.data(), stream);
    cuda::kmeans({.points = points.data(),
                  .weights = nullptr,
                  .n_points = kPoints,
                  .dim = kDim,
                  .n_clusters = kClusters,
                  .iterations = kIterations,
                  .centroids = centroids.data(),
                  .nearest = nearest.data(),
                  .best = best.data(),
                  .workspace = workspace.data()},
                 stream);
  };
  bench.run_once(work);
  double inertia = 0;
  for (const float x : best.host()) inertia += (1 - double{x}) / kPoints;
  if (!(inertia > 0 && inertia < 1)) throw std::runtime_error("k-means: inertia " + std::to_string(inertia));
  const double ms = bench.replay_ms(work);
  const double tflops = 2.0 * kPoints * kClusters * kDim * (kIterations + 1) / ms / 1e9;
  char note[96];
  std::snprintf(note, sizeof note, "%.0f TFLOP/s of assignment, inertia %.4f", tflops, inertia);
  bench.add({name, 1e3 * ms, 0, 0, 0, note});
}

// A linear layer of 4096 x 14336, for as many rows as a step of decoding and a chunk of prefill have. Several layers in
// turn, so that no cache holds the weights.
void add_linear_row(Bench& bench, const cuda::Matmul& matmul, int64_t n_rows) {
  const std::string name = "linear 4096 x 14336, " + std::to_string(n_rows) + (n_rows == 1 ? " row" : " rows");
  if (!bench.wants(name)) return;
  constexpr int64_t kIn = 14336, kOut = 4096, kLayers = 8;
  constexpr int64_t kWeightBytes = kOut * kIn * 2;
  const std::vector<uint16_t> x = random_rows(n_rows * kIn / kDim), layer = random_rows(kOut * kIn / kDim);
  const DeviceArray<uint16_t> device_x(x), weights(size_t(kLayers * kOut * kIn));
  for (int64_t i = 0; i < kLayers; ++i) {
    cuda::copy_to_device(weights.data() + i * kOut * kIn, layer.data(), size_t(kWeightBytes), nullptr);
  }
  cuda::synchronize(nullptr);
  const DeviceArray<float> out(size_t(n_rows * kOut));
  const auto work = [&](Stream stream) {
    for (int64_t i = 0; i < kLayers; ++i) {
      matmul({.x = device_x.data(),
              .weights = weights.data() + i * kOut * kIn,
              .bias = nullptr,
              .n_rows = n_rows,
              .out_features = kOut,
              .in_features = kIn,
              .out = out.data()},
             stream);
    }
  };
  bench.run_once(work);
  const std::vector<float> found = out.host();
  for (const int64_t at : {int64_t{0}, n_rows * kOut - 1}) {
    double sum = 0, magnitude = 0;
    for (int64_t c = 0; c < kIn; ++c) {
      const double term =
          double{bf16_to_f32(x[size_t(at / kOut * kIn + c)])} * double{bf16_to_f32(layer[size_t(at % kOut * kIn + c)])};
      sum += term;
      magnitude += std::abs(term);
    }
    const double error = std::abs(double{found[size_t(at)]} - sum);
    if (!(error <= magnitude * kIn / (1 << 23))) throw std::runtime_error(name + ": off by " + std::to_string(error));
  }
  const double ms = bench.replay_ms(work) / kLayers;
  const double gbps = double(kWeightBytes) / ms / 1e6;
  char note[64];
  std::snprintf(note, sizeof note, "%.1f TFLOP/s", 2.0 * double(n_rows * kOut * kIn) / ms / 1e9);
  bench.add({name, 1e3 * ms, gbps, gbps / bench.copy_gbps(), 0, note});
}

void add_linear_rows(Bench& bench) {
  const cuda::Matmul matmul;
  for (const int64_t n_rows : {1, 8, 512}) add_linear_row(bench, matmul, n_rows);
}

void run(const Options& options) {
  Bench bench(options);
  const cuda::DeviceName device = cuda::device_name();
  bench.measure_copy();
  std::printf("%s, driver %d.%d, CUDA %d.%d; copy %.0f GB/s (read and written)\n", device.gpu.c_str(),
              device.driver / 1000, device.driver % 1000 / 10, device.runtime / 1000, device.runtime % 1000 / 10,
              bench.copy_gbps());
  constexpr Shape kBytes{32, 8, int64_t{1} << 17, true};
  for (const auto& [n_query_heads, n_kv_heads] : {std::pair{32, 8}, {32, 32}}) {
    for (const int64_t n_tokens : {int64_t{1} << 15, int64_t{1} << 17, int64_t{1} << 19}) {
      if (n_tokens <= options.max_tokens) add_decode_rows(bench, {n_query_heads, n_kv_heads, n_tokens});
    }
    for (const int64_t n_tokens : {int64_t{1} << 17, int64_t{1} << 19}) {
      if (n_tokens <= options.max_tokens) add_prefill_rows(bench, {n_query_heads, n_kv_heads, n_tokens});
    }
  }
  if (kBytes.n_tokens <= options.max_tokens) {
    add_decode_rows(bench, kBytes);
    add_prefill_rows(bench, kBytes);
  }
  add_lookup_rows(bench);
  add_kmeans_row(bench);
  add_linear_rows(bench);
  add_model_rows(bench);
  bench.write_json();
}

int usage() {
  std::printf(
      "usage: cuda_bench [--filter PART_OF_A_NAME] [--max-tokens N] [--json FILE]\n"
      "Times the CUDA kernels on the current device. Per row: time per layer, bytes over time, per cent of the copy\n"
      "bandwidth measured first, ratio to dense decoding.\n"
      "example: cuda_bench --filter \"decode 32/8 128K\"\n");
  return 2;
}

}  // namespace
}  // namespace squeeze::cuda_bench

int main(int argc, char** argv) {
  using namespace squeeze;
  cuda_bench::Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc) return name == "--help" ? (cuda_bench::usage(), 0) : cuda_bench::usage();
    if (name == "--filter") {
      options.filter = argv[i + 1];
    } else if (name == "--json") {
      options.json = argv[i + 1];
    } else if (name == "--max-tokens") {
      options.max_tokens = std::atoll(argv[i + 1]);
    } else {
      return cuda_bench::usage();
    }
  }
  if (const char* problem = cuda_problem()) {
    std::printf("skipped: %s\n", problem);
    return 77;
  }
  try {
    cuda_bench::run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "cuda_bench: %s\n", error.what());
    return 1;
  }
  return 0;
}
