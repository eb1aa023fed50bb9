// Random numbers for what the benchmark reads: fast, and the same everywhere.
#pragma once

#include <cstdint>
#include <vector>

namespace squeeze::cuda_bench {

class Random {
 public:
  uint64_t bits() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }
  // About normal: the sum of eight uniform bytes.
  float normal() {
    uint64_t x = bits();
    int sum = 0;
    for (int i = 0; i < 8; ++i, x >>= 8) sum += static_cast<int>(x & 255);
    return static_cast<float>(sum - 1020) / 209.0f;
  }
  int between(int low, int high) { return low + static_cast<int>(bits() % static_cast<uint64_t>(high - low + 1)); }

 private:
  uint64_t state_ = 88172645463325252ull;
};

inline std::vector<float> normals(Random& random, size_t n) {
  std::vector<float> x(n);
  for (float& one : x) one = random.normal();
  return x;
}

}  // namespace squeeze::cuda_bench
