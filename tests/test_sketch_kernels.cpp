// Tests of the kernels that read quantised rows: i8 rows with scales, sign codes, and weighted sums of rows.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernel_cases.hpp"

namespace squeeze {
namespace {

using namespace test;

constexpr float kGuard = 9.0f;

// n floats between two guards, behind a pointer that no vector is aligned to.
struct Guarded {
  std::vector<float> all;

  explicit Guarded(int64_t n) : all(static_cast<size_t>(n) + 2, kGuard) {}
  explicit Guarded(const std::vector<float>& values) : Guarded(std::ssize(values)) {
    std::copy(values.begin(), values.end(), data());
  }
  float* data() { return all.data() + 1; }
  float operator[](int64_t i) const { return all[static_cast<size_t>(i) + 1]; }
  bool intact() const { return all.front() == kGuard && all.back() == kGuard; }
};

// n random bytes behind a pointer shifted by one.
template <class T>
struct Bytes {
  std::vector<T> all;

  Bytes(int64_t n, std::mt19937& rng) {
    for (int64_t i = 0; i < n + 1; ++i) all.push_back(static_cast<T>(rng()));
  }
  const T* data() const { return all.data() + 1; }
};

bool bit(const uint8_t* plane, int64_t c) { return plane[c / 8] >> (c % 8) & 1; }

}  // namespace

TEST_SUITE("sketch_kernels") {
  TEST_CASE("widen_i8: every integer times its row's scale, rounded once") {
    std::mt19937 rng(1);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t dim : kSizes) {
        for (const int64_t n_rows : {0, 1, 2, 5}) {
          const Bytes<int8_t> in(n_rows * dim, rng);
          const Stored scales(DType::f32, n_rows, 1, rng);
          Guarded out(n_rows * dim);
          table->widen_i8(in.data(), static_cast<const float*>(scales.data()), n_rows, dim, out.data());
          CHECK(out.intact());
          for (int64_t i = 0; i < n_rows * dim; ++i) {
            REQUIRE(out[i] == scales[i / dim] * static_cast<float>(in.data()[i]));
          }
        }
      }
    }
  }

  TEST_CASE("widen_i8 takes all 256 integers") {
    int8_t in[256];
    for (int i = 0; i < 256; ++i) in[i] = static_cast<int8_t>(i - 128);
    const float scale = 0.25f;
    for (const Kernels* table : tables_under_test()) {
      float out[256];
      table->widen_i8(in, &scale, 1, 256, out);
      for (int i = 0; i < 256; ++i) CHECK(out[i] == 0.25f * static_cast<float>(i - 128));
    }
  }

  TEST_CASE("unpack_signs: +-1, or +-0.5 and +-1.5, times the row's scale, for every dim") {
    std::mt19937 rng(2);
    for (const Kernels* table : tables_under_test()) {
      for (const int bits : {1, 2}) {
        for (const int64_t dim : kSizes) {
          for (const int64_t n_rows : {0, 1, 2, 5}) {
            CAPTURE(dim);
            const int64_t plane = (dim + 7) / 8;
            const Bytes<uint8_t> codes(n_rows * bits * plane, rng);  // also in the bits beyond dim
            const Stored scales(DType::f32, n_rows, 1, rng);
            Guarded out(n_rows * dim);
            table->unpack_signs({.codes = codes.data(),
                                 .n_rows = n_rows,
                                 .dim = dim,
                                 .bits = bits,
                                 .row_scales = static_cast<const float*>(scales.data()),
                                 .out = out.data()});
            CHECK(out.intact());
            for (int64_t i = 0; i < n_rows * dim; ++i) {
              const uint8_t* row = codes.data() + i / dim * bits * plane;
              float level = bit(row, i % dim) ? 1.0f : -1.0f;
              if (bits == 2) level += bit(row + plane, i % dim) ? 0.5f : -0.5f;
              REQUIRE(out[i] == level * scales[i / dim]);  // levels are exact, the product is rounded once
            }
          }
        }
      }
    }
  }

  TEST_CASE("a row's signs and integers do not depend on the other rows") {
    std::mt19937 rng(3);
    const int64_t dim = 33, n_rows = 6;
    const Bytes<uint8_t> codes(n_rows * 2 * 5, rng);
    const Bytes<int8_t> integers(n_rows * dim, rng);
    const std::vector<float> scales = random_floats(n_rows, rng);
    for (const Kernels* table : tables_under_test()) {
      std::vector<float> signs(n_rows * dim), one(dim), wide(n_rows * dim);
      table->unpack_signs({codes.data(), n_rows, dim, 2, scales.data(), signs.data()});
      table->widen_i8(integers.data(), scales.data(), n_rows, dim, wide.data());
      for (int64_t i = 0; i < n_rows; ++i) {
        table->unpack_signs({codes.data() + i * 2 * 5, 1, dim, 2, scales.data() + i, one.data()});
        CHECK(std::equal(one.begin(), one.end(), signs.begin() + i * dim));
        table->widen_i8(integers.data() + i * dim, scales.data() + i, 1, dim, one.data());
        CHECK(std::equal(one.begin(), one.end(), wide.begin() + i * dim));
      }
    }
  }

  TEST_CASE("weighted_sum adds to what is there, within n roundings, whatever else is in the call") {
    std::mt19937 rng(4);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t dim : kSizes) {
        for (const int64_t n_rows : {0, 1, 3, 40}) {
          for (const int64_t n_queries : {0, 1, 3, 4, 9}) {
            const int64_t stride = n_rows + 2;
            const Stored weights(DType::f32, n_queries * stride, 1, rng);
            const Stored rows(DType::f32, n_rows * dim, 1, rng);
            const std::vector<float> before = random_floats(n_queries * dim, rng);
            const WeightedSumArgs args{static_cast<const float*>(weights.data()),
                                       stride,
                                       n_queries,
                                       static_cast<const float*>(rows.data()),
                                       n_rows,
                                       dim,
                                       nullptr};
            Guarded found(before);
            WeightedSumArgs all = args;
            all.acc = found.data();
            table->weighted_sum(all);
            CHECK(found.intact());
            for (int64_t q = 0; q < n_queries; ++q) {
              Guarded alone(std::vector<float>(before.begin() + q * dim, before.begin() + (q + 1) * dim));
              WeightedSumArgs one = args;
              one.weights += q * stride;
              one.n_queries = 1;
              one.acc = alone.data();
              table->weighted_sum(one);
              for (int64_t c = 0; c < dim; ++c) {
                double sum = double{before[static_cast<size_t>(q * dim + c)]}, size = std::abs(sum);
                for (int64_t j = 0; j < n_rows; ++j) {
                  const double term = double{weights[q * stride + j]} * double{rows[j * dim + c]};
                  sum += term;
                  size += std::abs(term);
                }
                const double n = static_cast<double>(n_rows) + 1;
                REQUIRE(near(found[q * dim + c], sum, n * kUnit * size));
                REQUIRE(found[q * dim + c] == alone[c]);
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace squeeze
