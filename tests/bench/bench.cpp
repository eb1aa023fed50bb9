// bench: times the kernels and what is made of them, each row checked against the scalar kernels first.
#include "tests/bench/bench.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/kernels.hpp"
#include "lib/core/elapsed.hpp"
#include "lib/core/parallel.hpp"
#include "tests/bench/read_bandwidth.hpp"

namespace squeeze {
namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
}

double of_read(const BenchRow& row, double read_gbps) { return row.bytes / row.ms / 1e6 / read_gbps; }

std::string ratio(const std::optional<double>& x) { return x ? fmt::format("{:.2f}", *x) : "-"; }

}  // namespace

Bench::Bench(const BenchOptions& options) : options_(options) {
  for (const int threads : options.threads) read_gbps_[threads] = read_bandwidth(threads);
  if (!read_gbps_.contains(1)) read_gbps_[1] = read_bandwidth(1);  // some rows have one thread, whatever was asked for
}

int64_t available_bytes() {
  constexpr std::string_view kField = "MemAvailable:";
  std::ifstream info("/proc/meminfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with(kField)) return std::stoll(line.substr(kField.size())) * 1024;
  }
  return 0;
}

double Bench::time(const std::function<void()>& call) const {
  const auto first = std::chrono::steady_clock::now();
  call();
  if (ms_since(first) > 10000 * options_.seconds) return ms_since(first);
  std::vector<double> times;
  const auto start = std::chrono::steady_clock::now();
  while (times.size() < 3 || ms_since(start) < 1000 * options_.seconds) {
    const auto before = std::chrono::steady_clock::now();
    call();
    times.push_back(ms_since(before));
    if (times.back() > 3000 * options_.seconds) break;  // a row of many seconds is timed once
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

double time_scalar(const std::function<void()>& call) {
  const std::string isa = kernels().isa;
  select_kernels("scalar");
  const auto start = std::chrono::steady_clock::now();
  call();
  const double ms = ms_since(start);
  select_kernels(isa.c_str());
  return ms;
}

void check_close(const std::string& name, TensorView found, TensorView expected, double limit) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < expected.n_elements(); ++i) {
    const double x = expected.f32()[i], d = double{found.f32()[i]} - x;
    difference += d * d;
    size += x * x;
  }
  if (!(std::sqrt(difference) <= limit * std::sqrt(size))) {
    fail("{}: the result is {:.2g} away from the scalar kernels' (limit {:.2g})", name,
         std::sqrt(difference / std::max(size, 1e-300)), limit);
  }
}

void Bench::add(BenchRow row) {
  if (!options_.json) {
    const bool has_bytes = row.bytes > 0;
    fmt::print("| {} | {} | {:.3f} | {} | {} | {} | {} | {} |\n", row.name, row.threads, row.ms,
               has_bytes ? fmt::format("{:.1f}", row.bytes / row.ms / 1e6) : "-",
               has_bytes ? fmt::format("{:.0f} %", 100 * of_read(row, read_gbps(row.threads))) : "-",
               ratio(row.vs_dense), ratio(row.vs_scalar), row.note);
    std::fflush(stdout);
  }
  rows_.push_back(std::move(row));
}

void Bench::skip(const std::string& name, const std::string& reason) {
  if (!options_.json) fmt::print("| {} | - | - | - | - | - | - | skipped: {} |\n", name, reason);
  skipped_.emplace_back(name, reason);
}

void Bench::print_header() const {
  std::string rates;
  for (const auto& [threads, gbps] : read_gbps_) {
    rates += fmt::format("{}{:.1f} GB/s with {} thread{}", rates.empty() ? "" : ", ", gbps, threads,
                         threads == 1 ? "" : "s");
  }
  fmt::print("{}, kernels {}, commit {}. Read bandwidth: {}.\n\n", cpu_name(), kernels().isa, options_.commit, rates);
  fmt::print("| row | threads | ms | GB/s | of read bandwidth | vs dense | vs scalar | |\n");
  fmt::print("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
}

void Bench::print_json() const {
  nlohmann::ordered_json out = {{"machine", cpu_name()}, {"isa", kernels().isa}, {"commit", options_.commit}};
  for (const auto& [threads, gbps] : read_gbps_) out["read_gbps"][std::to_string(threads)] = gbps;
  out["rows"] = nlohmann::ordered_json::array();
  for (const BenchRow& row : rows_) {
    nlohmann::ordered_json line = {{"name", row.name}, {"threads", row.threads}, {"ms", row.ms}};
    if (row.bytes > 0) {
      line["gbps"] = row.bytes / row.ms / 1e6;
      line["of_read_bandwidth"] = of_read(row, read_gbps(row.threads));
    }
    if (row.vs_dense) line["vs_dense"] = *row.vs_dense;
    if (row.vs_scalar) line["vs_scalar"] = *row.vs_scalar;
    if (!row.note.empty()) line["note"] = row.note;
    out["rows"].push_back(std::move(line));
  }
  for (const auto& [name, reason] : skipped_) out["skipped"].push_back({{"name", name}, {"reason", reason}});
  fmt::print("{}\n", out.dump(2));
}

namespace {

int run(const BenchOptions& options) {
  Bench bench(options);
  if (!options.json) bench.print_header();
  attention_rows(bench);
  prefill_rows(bench);
  lookup_rows(bench);
  kmeans_rows(bench);
  model_rows(bench);
  if (options.json) bench.print_json();
  return 0;
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) {
  CLI::App app(
      "Times attention, lookups and a model's decoding. A row is checked against the scalar kernels before it is "
      "timed.\n"
      "Example: bench --filter 'decode 32/8' --max-tokens 65536");
  squeeze::BenchOptions options;
  app.add_option("--filter", options.filter, "Only rows whose name contains this");
  const CLI::Option* max_tokens =
      app.add_option(
             "--max-tokens", options.max_tokens,
             "The longest context; if it is not given, decoding is timed at 512K tokens too where memory allows")
          ->capture_default_str();
  app.add_option("--seconds", options.seconds, "Of timing per row")->capture_default_str();
  app.add_option("--threads", options.threads, "Numbers of threads")->delimiter(',')->capture_default_str();
  app.add_option("--commit", options.commit, "The commit that was built, for the heading")->capture_default_str();
  app.add_flag("--json", options.json, "One JSON object instead of a table");
  CLI11_PARSE(app, argc, argv);
  options.long_rows = max_tokens->count() == 0;
  try {
    return squeeze::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench: {}\n", error.what());
    return 1;
  }
}
