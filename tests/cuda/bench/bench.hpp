// What the rows of the benchmark share: options, timing, the table that is printed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/stream.hpp"

namespace squeeze::cuda_bench {

using cuda::DeviceArray;
using cuda::Stream;

struct Options {
  std::string filter, json;
  int64_t max_tokens = 1 << 19;
};

struct Row {
  std::string name;
  double us, gbps, of_copy, vs_dense;  // vs_dense 0: none
  std::string note;
};

class Bench {
 public:
  explicit Bench(Options options) : options_(std::move(options)) {}

  bool wants(const std::string& name) const { return name.find(options_.filter) != std::string::npos; }
  const Options& options() const { return options_; }
  double copy_gbps() const { return copy_gbps_; }

  void measure_copy() {
    constexpr size_t kBytes = size_t{2} << 30;
    const DeviceArray<char> from(kBytes), to(kBytes);
    cuda::fill_device(from.data(), 0x35, kBytes, nullptr);
    const double ms = median_ms([&] { cuda::copy_on_device(to.data(), from.data(), kBytes, stream_.get()); });
    copy_gbps_ = 2 * double(kBytes) / ms / 1e6;
  }

  // Median time of one replay.
  double replay_ms(const std::function<void(Stream)>& work, int repeats = 25) {
    const cuda::Graph graph(stream_, work);
    return median_ms([&] { graph.replay(stream_); }, repeats);
  }

  void run_once(const std::function<void(Stream)>& work) {
    work(stream_.get());
    cuda::synchronize(stream_.get());
  }

  void add(Row row) {
    std::printf("%-34s %9.1f us %8.1f GB/s %6.1f %%", row.name.c_str(), row.us, row.gbps, 100 * row.of_copy);
    if (row.vs_dense > 0) std::printf(" %7.2fx", row.vs_dense);
    std::printf("  %s\n", row.note.c_str());
    std::fflush(stdout);
    rows_.push_back(std::move(row));
  }

  void write_json() const {
    if (options_.json.empty()) return;
    std::ofstream out(options_.json);
    const cuda::DeviceName device = cuda::device_name();
    out << "{\"gpu\": \"" << device.gpu << "\", \"driver\": " << device.driver << ", \"copy_gbps\": " << copy_gbps_
        << ", \"rows\": [";
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Row& row = rows_[i];
      out << (i ? ",\n" : "\n") << "{\"name\": \"" << row.name << "\", \"us\": " << row.us << ", \"gbps\": " << row.gbps
          << ", \"of_copy_bandwidth\": " << row.of_copy << ", \"vs_dense\": ";
      row.vs_dense > 0 ? out << row.vs_dense : out << "null";
      out << ", \"note\": \"" << row.note << "\"}";
    }
    out << "\n]}\n";
    if (!out.flush()) throw std::runtime_error("cannot write " + options_.json);
  }

 private:
  double median_ms(const std::function<void()>& work, int repeats = 25) {
    for (int i = 0; i < 3; ++i) work();
    std::vector<double> times;
    for (int i = 0; i < repeats; ++i) times.push_back(cuda::device_ms(stream_, work));
    std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
    return times[size_t(repeats / 2)];
  }

  Options options_;
  cuda::OwnStream stream_;
  double copy_gbps_ = 0;
  std::vector<Row> rows_;
};

}  // namespace squeeze::cuda_bench
