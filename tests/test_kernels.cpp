// Tests of kernels: every table against double sums and the scalar conversions, with derived error bounds.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "tests/kernel_cases.hpp"

namespace squeeze {
namespace {

using namespace test;

// The distance of neighbouring floats at |x|.
double ulp(double x) { return std::ldexp(1.0, std::max(std::ilogb(std::max(std::abs(x), 0x1p-126)), -126) - 23); }

bool same_number(uint32_t a, uint32_t b, DType dtype) {
  const auto is_nan = [&](uint32_t bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (dtype == DType::f32) return std::isnan(float_of_bits(bits));
    return std::isnan(dtype == DType::f16 ? f16_to_f32(half) : bf16_to_f32(half));
  };
  return a == b || (is_nan(a) && is_nan(b));
}

// from_f32 of every table gives what `round` gives.
void check_rounding(DType dtype, uint16_t (*round)(float)) {
  std::vector<float> values;
  for (uint32_t high = 0; high < 0x10000u; ++high) {  // around every bf16, and every rounding boundary of f16
    for (const uint32_t low : {0u, 1u, 0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      values.push_back(float_of_bits((high << 16) | low));
    }
  }
  std::vector<uint16_t> found(values.size());
  for (const Kernels* table : tables_under_test()) {
    table->from_f32(values.data(), std::ssize(values), dtype, found.data());
    for (size_t i = 0; i < values.size(); ++i) REQUIRE(same_number(found[i], round(values[i]), dtype));
  }
}

TEST_SUITE("kernels") {
  TEST_CASE("SQUEEZE_ISA chooses the table") {
    CHECK(invalid_isa_request() == nullptr);
    const char* isa = std::getenv("SQUEEZE_ISA");
    const std::string expected = isa && *isa ? isa : available_kernels().back()->isa;
    CHECK(expected == kernels().isa);
    CHECK_FALSE(select_kernels("no such isa"));
    CHECK(expected == kernels().isa);
    CHECK(std::string(available_kernels().front()->isa) == "scalar");
  }

  TEST_CASE("to_f32 gives every 16-bit value") {
    std::vector<uint16_t> halves(0x10000);
    for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(i);
    std::vector<float> found(halves.size());
    for (const Kernels* table : tables_under_test()) {
      for (const DType dtype : {DType::f16, DType::bf16}) {
        table->to_f32(halves.data(), dtype, 0x10000, found.data());
        for (int64_t i = 0; i < 0x10000; ++i) {
          const float expected = load_element(halves.data(), dtype, i);
          const float value = found[static_cast<size_t>(i)];
          REQUIRE(same_number(bits_of_float(value), bits_of_float(expected), DType::f32));
        }
      }
    }
  }

  TEST_CASE("from_f32 to bf16 rounds to nearest even, through subnormals, infinities and NaN") {
    check_rounding(DType::bf16, f32_to_bf16);
  }

  TEST_CASE("from_f32 to f16 rounds to nearest even, through subnormals, infinities and NaN") {
    check_rounding(DType::f16, f32_to_f16);
  }

  TEST_CASE("conversions of every length and alignment touch nothing else") {
    std::mt19937 rng(1);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n : kSizes) {
        for (const DType dtype : kDTypes) {
          const Stored in(dtype, n, 1, rng);
          std::vector<float> wide(static_cast<size_t>(n) + 2, 7.0f);
          table->to_f32(in.data(), dtype, n, wide.data() + 1);
          CHECK(wide.front() == 7.0f);
          CHECK(wide.back() == 7.0f);
          for (int64_t i = 0; i < n; ++i) CHECK(wide[static_cast<size_t>(i) + 1] == in[i]);

          std::vector<uint8_t> narrow(static_cast<size_t>(n + 2) * size_of(dtype), 0x55);
          table->from_f32(wide.data() + 1, n, dtype, narrow.data() + size_of(dtype));
          if (n > 0) CHECK(std::memcmp(narrow.data() + size_of(dtype), in.data(), size_t(n) * size_of(dtype)) == 0);
          CHECK(narrow.front() == 0x55);
          CHECK(narrow.back() == 0x55);
        }
      }
    }
  }

  TEST_CASE("extent: the smallest and the largest element, whatever lies beside them") {
    std::mt19937 rng(2);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n : kSizes) {
        std::vector<float> x = random_floats(n + 2, rng);
        x.front() = x.back() = 9;
        const float* in = x.data() + 1;
        for (int64_t i = 0; i < n; ++i) {
          for (const float value : {5.0f, -5.0f, kInfinity, -kInfinity, kNan}) {
            const float before = std::exchange(x[static_cast<size_t>(i) + 1], value);
            Extent expected{kInfinity, -kInfinity};
            for (int64_t j = 0; j < n; ++j) {
              if (in[j] < expected.smallest) expected.smallest = in[j];
              if (in[j] > expected.largest) expected.largest = in[j];
            }
            const Extent found = table->extent(in, n);
            CHECK(found.smallest == expected.smallest);
            CHECK(found.largest == expected.largest);
            x[static_cast<size_t>(i) + 1] = before;
          }
        }
      }
      CHECK(table->extent(nullptr, 0).smallest == kInfinity);
      CHECK(table->extent(nullptr, 0).largest == -kInfinity);
    }
  }

  TEST_CASE("exp_sum: each exponential within 2 ulp, the sum within n roundings") {
    std::mt19937 rng(2);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n : kSizes) {
        const Stored in(DType::f32, n, 1, rng, 60.0f);
        const std::vector<float> weights = random_floats(n, rng);
        const float max = 50.0f;
        for (const bool weighted : {false, true}) {
          std::vector<float> x(in.values);
          x.insert(x.begin(), 0.5f);
          x.push_back(0.25f);
          const float total = table->exp_sum(x.data() + 1, n, max, weighted ? weights.data() : nullptr);
          CHECK(x.front() == 0.5f);
          CHECK(x.back() == 0.25f);
          double sum = 0, size = 0;
          for (int64_t i = 0; i < n; ++i) {
            const double expected = std::exp(double{in[i] - max});
            const float found = x[static_cast<size_t>(i) + 1];
            CHECK(near(found, expected, 2 * ulp(expected)));
            const double term = double{found} * (weighted ? double{weights[static_cast<size_t>(i)]} : 1.0);
            sum += term;
            size += std::abs(term);
          }
          CHECK(near(total, sum, static_cast<double>(n) * (kUnit * size + 0x1p-149)));  // terms may be subnormal
        }
      }
    }
  }

  TEST_CASE("exp at its edges: 0, -infinity, subnormal results, overflow, NaN") {
    for (const Kernels* table : tables_under_test()) {
      for (float x = -110; x < 95; x += 0.0137f) {
        float y = x;
        table->exp_sum(&y, 1, 0.0f, nullptr);
        const double expected = std::exp(double{x});
        if (expected > double{std::numeric_limits<float>::max()}) {
          CHECK(y == kInfinity);
        } else {
          CHECK(near(y, expected, 2 * ulp(expected)));
        }
      }
      float edges[] = {0.0f, -0.0f, -kInfinity, -1e30f, kInfinity, 1e30f, kNan};
      table->exp_sum(edges, 7, 0.0f, nullptr);
      CHECK(edges[0] == 1.0f);
      CHECK(edges[1] == 1.0f);
      CHECK(edges[2] == 0.0f);
      CHECK(edges[3] == 0.0f);
      CHECK(edges[4] == kInfinity);
      CHECK(edges[5] == kInfinity);
      CHECK(std::isnan(edges[6]));
    }
  }

  TEST_CASE("scores and matvec: within n roundings of the dot product, whatever else is in the call") {
    std::mt19937 rng(3);
    for (const Kernels* table : tables_under_test()) {
      for (const DType dtype : kDTypes) {
        for (const int64_t dim : kSizes) {
          const int64_t n_rows = dim % 7 + 1, n_x = dim % 6 + 1, stride = n_rows + 2;
          const Stored rows(dtype, n_rows * dim, 1, rng);
          const Stored x(DType::f32, n_x * dim, 1, rng);
          const std::vector<float> bias = random_floats(n_rows, rng);
          const auto* x_data = static_cast<const float*>(x.data());
          std::vector<float> scored(size_t(n_x * stride), 9.0f), product(size_t(n_x * stride), 9.0f);
          table->scores({x_data, n_x, rows.data(), dtype, n_rows, dim, 0.3f, scored.data(), stride});
          table->matvec({x_data, n_x, rows.data(), dtype, n_rows, dim, bias.data(), product.data(), stride});
          for (int64_t i = 0; i < n_x; ++i) {
            for (int64_t j = 0; j < stride; ++j) {
              const auto at = static_cast<size_t>(i * stride + j);
              if (j >= n_rows) {
                CHECK(scored[at] == 9.0f);
                CHECK(product[at] == 9.0f);
                continue;
              }
              const Dot d = dot(x, i * dim, rows, j * dim, dim);
              const double n = static_cast<double>(dim) + 2;
              const double offset = double{bias[static_cast<size_t>(j)]};
              CHECK(near(scored[at], double{0.3f} * d.value, n * kUnit * 0.3 * d.size));
              CHECK(near(product[at], d.value + offset, n * kUnit * (d.size + std::abs(offset))));
              float alone = 0;
              const void* row = static_cast<const char*>(rows.data()) + j * dim * int64_t(size_of(dtype));
              table->scores({x_data + i * dim, 1, row, dtype, 1, dim, 0.3f, &alone, 1});
              CHECK(alone == scored[at]);
            }
          }
        }
      }
    }
  }

  TEST_CASE("rms_norm, also in place") {
    std::mt19937 rng(4);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n : kSizes) {
        const Stored x(DType::f32, n, 1, rng), weight(DType::f32, n, 1, rng);
        double squares = 0;
        for (const float v : x.values) squares += double{v} * double{v};
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
        std::vector<float> out(x.values);
        out.push_back(5.0f);
        table->rms_norm(out.data(), static_cast<const float*>(weight.data()), n, 1e-5f, out.data());
        CHECK(out.back() == 5.0f);
        for (int64_t i = 0; i < n; ++i) {
          const double expected = double{x[i]} * inverse * double{weight[i]};
          CHECK(near(out[static_cast<size_t>(i)], expected, static_cast<double>(n + 4) * kUnit * std::abs(expected)));
        }
      }
    }
  }

  TEST_CASE("rope rotates pairs half a row apart") {
    std::mt19937 rng(5);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t half : kSizes) {
        const Stored x(DType::f32, 2 * half, 1, rng);
        std::vector<float> cosines, sines;
        for (int64_t i = 0; i < half; ++i) {
          cosines.push_back(static_cast<float>(std::cos(static_cast<double>(i))));
          sines.push_back(static_cast<float>(std::sin(static_cast<double>(i))));
        }
        std::vector<float> out(x.values);
        out.push_back(5.0f);
        table->rope(out.data(), 2 * half, cosines.data(), sines.data());
        CHECK(out.back() == 5.0f);
        for (int64_t i = 0; i < half; ++i) {
          const auto at = static_cast<size_t>(i);
          const double c = double{cosines[at]}, s = double{sines[at]}, a = double{x[i]}, b = double{x[i + half]};
          CHECK(near(out[at], a * c - b * s, 2 * kUnit * (std::abs(a * c) + std::abs(b * s))));
          CHECK(near(out[at + size_t(half)], b * c + a * s, 2 * kUnit * (std::abs(b * c) + std::abs(a * s))));
        }
      }
    }
  }

  TEST_CASE("swiglu, also in place") {
    std::mt19937 rng(6);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n : kSizes) {
        const Stored gate(DType::f32, n, 1, rng, 30.0f), up(DType::f32, n, 1, rng);
        std::vector<float> out(gate.values);
        out.push_back(5.0f);
        table->swiglu(out.data(), static_cast<const float*>(up.data()), n, out.data());
        CHECK(out.back() == 5.0f);
        for (int64_t i = 0; i < n; ++i) {
          const double expected = double{gate[i]} / (1 + std::exp(-double{gate[i]})) * double{up[i]};
          // exp: 2 ulp = 4 units; addition, division and product: one unit each.
          CHECK(near(out[static_cast<size_t>(i)], expected, 8 * kUnit * std::abs(expected)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace squeeze
