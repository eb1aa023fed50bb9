// Sums of a buffer, a part per thread; the sum is kept so that no read can be left out.
#include "tests/bench/read_bandwidth.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lib/core/elapsed.hpp"
#include "lib/core/parallel.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {
namespace {

constexpr int64_t kWords = int64_t{64} << 20;  // 512 MB
constexpr int64_t kBlock = int64_t{1} << 15;

// Eight sums, so that reads do not wait for additions.
#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t
sum_words(const uint64_t* words, int64_t n) {
  uint64_t sums[32] = {};
  for (int64_t i = 0; i < n; i += 32) {
    for (int64_t lane = 0; lane < 32; ++lane) sums[lane] += words[i + lane];
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum += s;
  return sum;
}

Tensor filled_buffer() {
  Tensor buffer(DType::f32, {2 * kWords});
  parallel_blocks(2 * kWords, kBlock,
                  [&](int64_t begin, int64_t end) { std::fill(buffer.f32() + begin, buffer.f32() + end, 1.0f); });
  return buffer;
}

}  // namespace

double read_bandwidth(int threads) {
  static const Tensor buffer = filled_buffer();
  const auto* words = static_cast<const uint64_t*>(buffer.data());
  const int before = n_threads();
  set_threads(threads);
  std::vector<double> rates;
  std::vector<uint64_t> sums(static_cast<size_t>(threads));
  for (int pass = 0; pass < 7; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for(threads, [&](int64_t t) {
      const int64_t begin = kWords / kBlock * t / threads * kBlock;
      const int64_t end = kWords / kBlock * (t + 1) / threads * kBlock;
      sums[static_cast<size_t>(t)] += sum_words(words + begin, end - begin);
    });
    rates.push_back(static_cast<double>(kWords * 8) / ms_since(start) / 1e6);
  }
  set_threads(before);
  volatile uint64_t kept = sums[0];
  static_cast<void>(kept);
  std::nth_element(rates.begin(), rates.begin() + 3, rates.end());
  return rates[3];
}

}  // namespace squeeze
