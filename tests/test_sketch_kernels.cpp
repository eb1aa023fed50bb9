// Tests of the kernels that read quantised rows: i8 rows with scales, sign codes, and weighted sums of rows.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <utility>

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

const int64_t kSketchDims[] = {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 80, 127, 128, 129, 200, 512};
// Queries and rows of a call.
const std::pair<int64_t, int64_t> kSketchSizes[] = {{0, 5},  {3, 0},  {1, 1},  {2, 3},   {3, 7},   {4, 8},   {5, 9},
                                                    {6, 15}, {7, 16}, {8, 17}, {9, 5},   {9, 2},   {1, 31},  {2, 32},
                                                    {4, 33}, {5, 64}, {9, 65}, {64, 72}, {64, 40}, {63, 150}};

// Arguments of sketch_scores, all behind pointers that no vector is aligned to. Codes are random in the bits beyond dim
// too; offsets have a stride of 3.
struct SketchCase {
  int64_t n_queries, n_rows, dim;
  int bits;
  std::vector<int8_t> queries;
  Stored query_scales, offsets;
  Bytes<uint8_t> codes;
  std::vector<uint16_t> scales;

  SketchCase(int64_t queries_of, int64_t rows, int64_t head_dim, int n_bits, std::mt19937& rng)
      : n_queries(queries_of),
        n_rows(rows),
        dim(head_dim),
        bits(n_bits),
        queries(static_cast<size_t>(1 + n_queries * sketch_query_stride(dim)), 0),
        query_scales(DType::f32, n_queries, 1, rng),
        offsets(DType::f32, n_queries * 3, 1, rng, 10.0f),
        codes(n_rows * bits * ((dim + 7) / 8), rng),
        scales(static_cast<size_t>(n_rows) + 1) {
    for (int64_t i = 0; i < n_queries * dim; ++i) {
      queries[static_cast<size_t>(1 + i / dim * sketch_query_stride(dim) + i % dim)] =
          static_cast<int8_t>(static_cast<int>(rng() % 255) - 127);
    }
    const Stored magnitudes(DType::f32, n_rows, 0, rng);
    for (int64_t j = 0; j < n_rows; ++j) scales[static_cast<size_t>(j + 1)] = f32_to_f16(std::abs(magnitudes[j]));
  }
  SketchScoresArgs args() const {
    return {.queries = queries.data() + 1,
            .n_queries = n_queries,
            .query_scales = static_cast<const float*>(query_scales.data()),
            .offsets = static_cast<const float*>(offsets.data()),
            .offset_stride = 3,
            .codes = codes.data(),
            .scales = scales.data() + 1,
            .n_rows = n_rows,
            .dim = dim,
            .bits = bits,
            .out = nullptr,
            .out_stride = 0};
  }
  int64_t dot(int64_t query, int64_t row) const {
    const int64_t plane = (dim + 7) / 8;
    const uint8_t* code = codes.data() + row * bits * plane;
    const auto sign = [&](int64_t p, int64_t c) { return code[p * plane + c / 8] >> (c % 8) & 1 ? 1 : -1; };
    int64_t sum = 0;
    for (int64_t c = 0; c < dim; ++c) {
      const int q = queries[static_cast<size_t>(1 + query * sketch_query_stride(dim) + c)];
      sum += q * (bits == 1 ? sign(0, c) : 2 * sign(0, c) + sign(1, c));
    }
    return sum;
  }
};

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

  TEST_CASE("sketch_scores: the exact dot of integers, scaled, beside the offset; the same bits from every table") {
    std::mt19937 rng(2);
    for (const int64_t dim : kSketchDims) {
      for (const int bits : {1, 2}) {
        CAPTURE(dim);
        CAPTURE(bits);
        const SketchCase made(64, 150, dim, bits, rng);
        std::vector<float> expected(64 * 150);
        SketchScoresArgs args = made.args();
        args.out = expected.data();
        args.out_stride = 150;
        available_kernels().front()->sketch_scores(args);
        for (int64_t i = 0; i < 64; ++i) {
          for (int64_t j = 0; j < 150; ++j) {
            const double product =
                double{made.query_scales[i]} * double{f16_to_f32(args.scales[j])} * static_cast<double>(made.dot(i, j));
            const double exact = double{made.offsets[i * 3]} + product;
            REQUIRE(near(expected[static_cast<size_t>(i * 150 + j)], exact,
                         kUnit * (2.01 * std::abs(product) + std::abs(exact))));  // two products and a sum
          }
        }
        for (const Kernels* table : tables_under_test()) {
          for (const auto& [n_queries, n_rows] : kSketchSizes) {
            CAPTURE(n_queries);
            CAPTURE(n_rows);
            const int64_t stride = n_rows + 2;
            Guarded out(n_queries * stride);
            args = made.args();
            args.n_queries = n_queries;
            args.n_rows = n_rows;
            args.out = out.data();
            args.out_stride = stride;
            table->sketch_scores(args);
            CHECK(out.intact());
            for (int64_t i = 0; i < n_queries; ++i) {
              for (int64_t j = 0; j < stride; ++j) {
                REQUIRE(out[i * stride + j] == (j < n_rows ? expected[static_cast<size_t>(i * 150 + j)] : kGuard));
              }
            }
          }
        }
      }
    }
  }

  TEST_CASE("sketch_scores: the largest sums, a query of zeros, and one large value") {
    for (const Kernels* table : tables_under_test()) {
      for (const int bits : {1, 2}) {
        for (const uint8_t byte : {uint8_t{0x00}, uint8_t{0xff}, uint8_t{0x55}}) {
          const int64_t dim = kMaxHeadDim;
          const int level = bits == 1 ? 1 : 3;
          const std::vector<uint8_t> codes(static_cast<size_t>(20 * bits * dim / 8), byte);
          const std::vector<uint16_t> scales(20, f32_to_f16(0.5f));
          std::vector<int8_t> queries(static_cast<size_t>(5 * dim), 0);  // 127, -127, alternating, one value, zeros
          for (size_t c = 0; c < static_cast<size_t>(dim); ++c) {
            queries[c] = 127;
            queries[c + 512] = -127;
            queries[c + 1024] = c % 2 ? -127 : 127;
          }
          queries[3 * 512 + 300] = 127;
          const std::vector<float> ones(5, 2.0f), offsets = {0, 0, 0, 0, 7};
          for (const int64_t n_rows : {5, 20}) {
            Guarded out(5 * n_rows);
            table->sketch_scores({queries.data(), 5, ones.data(), offsets.data(), 1, codes.data(), scales.data(),
                                  n_rows, dim, bits, out.data(), n_rows});
            for (int64_t j = 0; j < n_rows; ++j) {
              const int sign = byte == 0x00 ? -level : level;  // of even dimensions
              const int odd = byte == 0xff ? level : -level;
              CHECK(out[j] == static_cast<float>(127 * 256 * (sign + odd)));
              CHECK(out[n_rows + j] == -static_cast<float>(127 * 256 * (sign + odd)));
              CHECK(out[2 * n_rows + j] == static_cast<float>(127 * 256 * (sign - odd)));
              CHECK(out[3 * n_rows + j] == static_cast<float>(127 * sign));
              CHECK(out[4 * n_rows + j] == 7);
            }
          }
        }
      }
    }
  }

  TEST_CASE("sketch_scores without offsets adds zero") {
    std::mt19937 rng(5);
    const SketchCase made(9, 70, 33, 2, rng);
    const std::vector<float> zeros(9, 0.0f);
    for (const Kernels* table : tables_under_test()) {
      std::vector<float> found(9 * 70), expected(9 * 70);
      SketchScoresArgs args = made.args();
      args.out_stride = 70;
      args.offsets = zeros.data();
      args.offset_stride = 1;
      args.out = expected.data();
      table->sketch_scores(args);
      args.offsets = nullptr;
      args.out = found.data();
      table->sketch_scores(args);
      CHECK(found == expected);
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
