// A test harness of a few lines, since these tests build where there is nothing but a compiler.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/dtype.hpp"

namespace squeeze::cuda_tests {

struct Case {
  std::string name;
  void (*run)();
};

// One function per file of tests; main.cpp lists them.
std::vector<Case> attend_decode_cases();
std::vector<Case> lookup_cases();
std::vector<Case> sketch_lookup_cases();
std::vector<Case> bench_call_cases();
std::vector<Case> kmeans_cases();
std::vector<Case> forward_ops_cases();
std::vector<Case> block_lookup_cases();
std::vector<Case> attend_prefill_cases();
std::vector<Case> matmul_cases();
std::vector<Case> row_cache_cases();
std::vector<Case> stream_cases();

inline void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// |found - expected| <= limit everywhere; NaN never passes.
inline void expect_close(const std::string& what, std::span<const float> found, std::span<const double> expected,
                         double limit) {
  expect(found.size() == expected.size(), what + ": sizes differ");
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::abs(double{found[i]} - expected[i]) <= limit) continue;
    throw std::runtime_error(what + ": element " + std::to_string(i) + " is " + std::to_string(found[i]) +
                             ", expected " + std::to_string(expected[i]) + " within " + std::to_string(limit));
  }
}

inline constexpr int kUnwrittenByte = 0xf9;  // fills outputs before a call
inline constexpr int32_t kUnwritten = static_cast<int32_t>(0xf9f9f9f9u);

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  float normal() { return distribution_(engine_); }
  int below(int n) { return static_cast<int>(engine_() % static_cast<uint64_t>(n)); }
  std::vector<float> normals(size_t n, float deviation = 1) {
    std::vector<float> out(n);
    for (float& x : out) x = deviation * normal();
    return out;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<float> distribution_;
};

inline std::vector<uint16_t> rounded(std::span<const float> x, DType dtype) {
  std::vector<uint16_t> out(x.size());
  for (size_t i = 0; i < x.size(); ++i) store_element(out.data(), dtype, static_cast<int64_t>(i), x[i]);
  return out;
}

}  // namespace squeeze::cuda_tests
