// What every row of the benchmark shares: which rows run, how they are timed, checked and printed.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/core/error.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {

// One line of the result. bytes: what the row has to read; work without a natural size in bytes has none.
struct BenchRow {
  std::string name;
  double ms = 0;  // median
  double bytes = 0;
  int threads = 0;
  std::optional<double> vs_dense;   // how many times faster than the dense row of the same shape and threads
  std::optional<double> vs_scalar;  // than the scalar kernels
  std::string note;                 // what else was measured
};

struct BenchOptions {
  std::string filter;  // rows whose name contains it; empty: all
  int64_t max_tokens = 1 << 17;
  bool long_rows = true;  // decoding at 512K tokens too, where memory allows
  double seconds = 0.5;   // of timing per row, after one warm-up
  std::vector<int> threads = {1, 2};
  std::string commit = "unknown";
  bool json = false;
};

class Bench {
 public:
  explicit Bench(const BenchOptions& options);

  const BenchOptions& options() const { return options_; }
  double read_gbps(int threads) const { return read_gbps_.at(threads); }
  bool wants(const std::string& name) const { return name.find(options_.filter) != std::string::npos; }
  // Whether a group of rows has one that is wanted.
  bool wants_any(const std::vector<std::string>& names) const {
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) { return wants(name); });
  }

  // The median time of one call, in ms: one warm-up, then calls for options().seconds, at least three. A call of many
  // seconds is its own warm-up.
  double time(const std::function<void()>& call) const;
  void add(BenchRow row);
  // Rows that this machine cannot run, and why.
  void skip(const std::string& name, const std::string& reason);
  void print_header() const;
  void print_json() const;

 private:
  BenchOptions options_;
  std::map<int, double> read_gbps_;  // by threads
  std::vector<BenchRow> rows_;
  std::vector<std::pair<std::string, std::string>> skipped_;  // name, reason
};

// Memory that programs can still take, by the kernel's estimate; 0 if it does not say.
int64_t available_bytes();

// Runs `call` with the scalar kernels; its time in ms.
double time_scalar(const std::function<void()>& call);

// Throws if |found - expected| / |expected|, Euclidean, is above the limit.
void check_close(const std::string& name, TensorView found, TensorView expected, double limit);

// Rows, by what they measure; each is one file.
void attention_rows(Bench& bench);
void prefill_rows(Bench& bench);
void lookup_rows(Bench& bench);
void kmeans_rows(Bench& bench);
void model_rows(Bench& bench);

}  // namespace squeeze
