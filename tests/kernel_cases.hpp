// What the kernel tests share: the tables to test, the sizes, and random data in every storage type.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "kernels/kernels.hpp"

namespace squeeze::test {

inline constexpr double kUnit = 0x1p-24;  // unit roundoff of float32
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline const int64_t kSizes[] = {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 127, 128};
inline const DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};

// The table that SQUEEZE_ISA names, or all of them.
inline std::vector<const Kernels*> tables_under_test() {
  if (std::getenv("SQUEEZE_ISA")) return {&kernels()};
  return available_kernels();
}

// n values of a dtype behind a pointer shifted by `shift` elements, and the same values exactly as float32.
struct Stored {
  DType dtype;
  std::vector<uint8_t> bytes;
  std::vector<float> values;
  int64_t shift;

  Stored(DType type, int64_t n, int64_t shift_by, std::mt19937& rng, float magnitude = 1.0f)
      : dtype(type), bytes(static_cast<size_t>(n + shift_by) * size_of(type)), shift(shift_by) {
    std::uniform_real_distribution<float> uniform(-magnitude, magnitude);
    for (int64_t i = 0; i < n; ++i) {
      store_element(bytes.data(), dtype, shift + i, uniform(rng));
      values.push_back(load_element(bytes.data(), dtype, shift + i));
    }
  }
  const void* data() const { return bytes.data() + static_cast<size_t>(shift) * size_of(dtype); }
  float operator[](int64_t i) const { return values[static_cast<size_t>(i)]; }
  void set(int64_t i, float value) {
    store_element(bytes.data(), dtype, shift + i, value);
    values[static_cast<size_t>(i)] = load_element(bytes.data(), dtype, shift + i);
  }
};

inline std::vector<float> random_floats(int64_t n, std::mt19937& rng, float magnitude = 1.0f) {
  return Stored(DType::f32, n, 0, rng, magnitude).values;
}

// Near: |found - expected| <= bound, or both are the same infinity.
inline bool near(float found, double expected, double bound) {
  return double{found} == expected || std::abs(double{found} - expected) <= bound;
}

struct Dot {
  double value = 0;
  double size = 0;  // sum of |x_i y_i|: a float32 sum of n products in any order is off by at most n * kUnit * size
};

template <class X, class Y>
Dot dot(const X& x, int64_t x_begin, const Y& y, int64_t y_begin, int64_t n) {
  Dot d;
  for (int64_t i = 0; i < n; ++i) {
    const double product = double{x[x_begin + i]} * double{y[y_begin + i]};
    d.value += product;
    d.size += std::abs(product);
  }
  return d;
}

}  // namespace squeeze::test
