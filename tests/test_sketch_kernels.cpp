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

// Arguments of sketch_scores, all behind pointers that no vector is aligned to.
struct SketchCase {
  int64_t n_queries, n_rows, dim;
  int bits;
  std::vector<uint8_t> tables;
  Stored query_scales, before;
  Bytes<uint8_t> codes;
  std::vector<uint16_t> scales;

  SketchCase(int64_t queries_of, int64_t rows, int64_t head_dim, int n_bits, std::mt19937& rng)
      : n_queries(queries_of),
        n_rows(rows),
        dim(head_dim),
        bits(n_bits),
        tables(static_cast<size_t>(1 + n_queries * sketch_table_bytes(dim)), 0),
        query_scales(DType::f32, n_queries, 1, rng),
        before(DType::f32, n_queries * n_rows, 1, rng, 10.0f),
        codes(n_rows * bits * ((dim + 7) / 8), rng),
        scales(static_cast<size_t>(n_rows) + 1) {
    for (uint8_t& entry : tables) entry = static_cast<uint8_t>(rng() % (2 * kSketchTableZero + 1));
    const Stored magnitudes(DType::f32, n_rows, 0, rng);
    for (int64_t j = 0; j < n_rows; ++j) scales[static_cast<size_t>(j + 1)] = f32_to_f16(std::abs(magnitudes[j]));
  }
  SketchScoresArgs args() const {
    return {.tables = tables.data() + 1,
            .n_queries = n_queries,
            .query_scales = static_cast<const float*>(query_scales.data()),
            .codes = codes.data(),
            .scales = scales.data() + 1,
            .n_rows = n_rows,
            .dim = dim,
            .bits = bits,
            .out = nullptr,
            .out_stride = 0};
  }
  // A row's bits in groups of four, each with its entry; the first plane of two counts twice.
  int64_t dot(int64_t query, int64_t row) const {
    const int64_t n_bytes = (dim + 7) / 8;
    const uint8_t* table = tables.data() + 1 + query * sketch_table_bytes(dim);
    int64_t sum = 0;
    for (int64_t p = 0; p < bits; ++p) {
      for (int64_t g = 0; g < 2 * n_bytes; ++g) {
        const uint8_t byte = codes.data()[(row * bits + p) * n_bytes + g / 2];
        const int entry = table[16 * g + (g % 2 ? byte / 16 : byte % 16)];
        sum += (entry - kSketchTableZero) * (bits == 2 && p == 0 ? 2 : 1);
      }
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

  TEST_CASE("sketch_scores adds the exact sum of entries, scaled; the same bits from every table") {
    std::mt19937 rng(2);
    for (const int64_t dim : kSketchDims) {
      for (const int bits : {1, 2}) {
        CAPTURE(dim);
        CAPTURE(bits);
        const SketchCase made(64, 150, dim, bits, rng);
        std::vector<float> expected(64 * 150);
        for (int64_t i = 0; i < 64 * 150; ++i) expected[static_cast<size_t>(i)] = made.before[i];
        SketchScoresArgs args = made.args();
        args.out = expected.data();
        args.out_stride = 150;
        available_kernels().front()->sketch_scores(args);
        for (int64_t i = 0; i < 64; ++i) {
          for (int64_t j = 0; j < 150; ++j) {
            const double product =
                double{made.query_scales[i]} * double{f16_to_f32(args.scales[j])} * static_cast<double>(made.dot(i, j));
            const double exact = double{made.before[i * 150 + j]} + product;
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
            const auto start = [&, n = n_rows](int64_t i, int64_t j) { return j < n ? made.before[i * 150 + j] : kGuard; };
            for (int64_t i = 0; i < n_queries * stride; ++i) out.data()[i] = start(i / stride, i % stride);
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

  TEST_CASE("sketch_scores: the largest sums of both signs, and nothing added") {
    for (const Kernels* table : tables_under_test()) {
      for (const int bits : {1, 2}) {
        const int64_t dim = kMaxHeadDim, n_groups = dim / 4;
        const std::vector<uint16_t> scales(40, f32_to_f16(0.5f));
        std::mt19937 rng(3);
        const Bytes<uint8_t> codes(40 * bits * dim / 8, rng);
        for (const int entry : {0, kSketchTableZero, 2 * kSketchTableZero}) {
          const std::vector<uint8_t> entries(static_cast<size_t>(sketch_table_bytes(dim)), static_cast<uint8_t>(entry));
          const float two = 2.0f;
          for (const int64_t n_rows : {5, 40}) {
            Guarded out(n_rows);
            table->sketch_scores(
                {entries.data(), 1, &two, codes.data(), scales.data(), n_rows, dim, bits, out.data(), n_rows});
            const auto sum = static_cast<float>(n_groups * (bits == 1 ? 1 : 3) * (entry - kSketchTableZero));
            for (int64_t j = 0; j < n_rows; ++j) CHECK(out[j] == kGuard + sum);
          }
        }
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
