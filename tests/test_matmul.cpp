// oneDNN's matrix product, and the linear layers on top of it, against sums in float64.
#include "kernels/matmul.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "lib/core/parallel.hpp"
#include "lib/model/linear.hpp"

namespace squeeze {
namespace {

// Uniform in [-1, 1), the same on every machine.
Tensor random_tensor(DType dtype, Shape shape, uint32_t seed) {
  Tensor values(DType::f32, shape);
  for (int64_t i = 0; i < values.n_elements(); ++i) {
    seed = seed * 1664525u + 1013904223u;
    values.f32()[i] = static_cast<float>(seed >> 8) * 0x1p-23f - 1.0f;
  }
  return convert(values, dtype);
}

double exact(TensorView x, TensorView weights, int64_t i, int64_t j) {
  double sum = 0;
  for (int64_t c = 0; c < x.size(1); ++c) {
    sum +=
        double{load_element(x[i].data(), x.dtype(), c)} * double{load_element(weights[j].data(), weights.dtype(), c)};
  }
  return sum;
}

// A float32 sum of n products of size at most 1 is off by at most about n^2 eps; in any order and blocking.
double bound(int64_t n) { return static_cast<double>(n * n) * 0x1p-24 + 1e-7; }

}  // namespace

TEST_SUITE("matmul") {
  TEST_CASE("products of every size, into a wider output") {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const int64_t n : {1, 2, 7, 17, 64}) {
        for (const int64_t out_features : {1, 3, 16, 33}) {
          for (const int64_t in_features : {1, 5, 16, 31, 80, 128}) {
            const Tensor x = random_tensor(dtype, {n, in_features}, 1);
            const Tensor weights = random_tensor(dtype, {out_features, in_features}, 2);
            const int64_t stride = out_features + 2;
            Tensor out = Tensor::zeros(DType::f32, {n, stride});
            matmul({x.data(), weights.data(), dtype, n, out_features, in_features, out.f32(), stride});
            double error = 0;
            for (int64_t i = 0; i < n; ++i) {
              for (int64_t j = 0; j < out_features; ++j) {
                error = std::max(error, std::abs(double{out[i].f32()[j]} - exact(x, weights, i, j)));
              }
              CHECK((out[i].f32()[out_features] == 0 && out[i].f32()[out_features + 1] == 0));
            }
            CAPTURE(in_features);
            CHECK(error < bound(in_features));
          }
        }
      }
    }
  }

  TEST_CASE("empty products") {
    float out[4] = {1, 1, 1, 1};
    CHECK_NOTHROW(matmul({nullptr, nullptr, DType::f32, 0, 4, 4, out, 4}));
    CHECK_NOTHROW(matmul({nullptr, nullptr, DType::f32, 1, 0, 4, out, 4}));
    CHECK(out[0] == 1);
    matmul({nullptr, nullptr, DType::f32, 1, 4, 0, out, 4});
    CHECK((out[0] == 0 && out[3] == 0));
  }

  TEST_CASE("a linear layer with bias, for few and many rows, of every weight type") {
    for (const DType type : {DType::f32, DType::f16, DType::bf16}) {
      for (const Precision precision : {Precision::f32, Precision::bf16}) {
        for (const int64_t n : {1, 8, 9, 600}) {
          const Tensor weights = random_tensor(type, {70, 48}, 3);
          const Tensor bias = random_tensor(DType::f32, {70}, 4);
          LinearInput input(precision);
          const Tensor rows = random_tensor(DType::f32, {n, 48}, 5);
          const TensorView x = input.of(rows);
          Tensor out;
          linear(x, weights, bias, out);
          REQUIRE(out.shape() == Shape{n, 70});
          // f16 and f32 weights are rounded to bf16 where oneDNN computes in bf16.
          const bool rounds = precision == Precision::bf16 && type != DType::bf16 && n > 8;
          const Tensor used = convert(weights, rounds ? DType::bf16 : type);
          double error = 0;
          for (int64_t i = 0; i < n; i += 37) {
            for (int64_t j = 0; j < 70; ++j) {
              const double expected = exact(x, used, i, j) + double{bias.f32()[j]};
              error = std::max(error, std::abs(double{out[i].f32()[j]} - expected));
            }
          }
          CHECK(error < bound(48) + 1e-6);
        }
      }
    }
  }

  TEST_CASE("a linear layer gives the same bytes with any number of threads") {
    const Tensor weights = random_tensor(DType::bf16, {2100, 40}, 6);
    const int before = n_threads();
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      for (const int64_t n : {3, 50}) {
        LinearInput input(precision);
        const Tensor rows = random_tensor(DType::f32, {n, 40}, 7);
        const TensorView x = input.of(rows);
        set_threads(1);
        Tensor one, four;
        linear(x, weights, {}, one);
        set_threads(4);
        linear(x, weights, {}, four);
        CHECK(std::memcmp(one.data(), four.data(), one.n_bytes()) == 0);
      }
    }
    set_threads(before);
  }
}

}  // namespace squeeze
