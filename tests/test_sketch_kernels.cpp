// Tests of the kernels that read quantised rows: i8 rows with scales, codes of sketches, and weighted sums of rows.
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

const int64_t kCodeBytes[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 25, 32, 33, 64, kMaxCodeBytes};
// Queries and rows of a call.
const std::pair<int64_t, int64_t> kSketchSizes[] = {{0, 5},  {3, 0},  {1, 1},  {2, 3},   {3, 7},   {4, 8},   {5, 9},
                                                    {6, 15}, {7, 16}, {8, 17}, {9, 5},   {9, 2},   {1, 31},  {2, 32},
                                                    {4, 33}, {5, 64}, {9, 65}, {64, 72}, {64, 40}, {63, 150}};

constexpr int32_t kFirstRow = 7;  // of the codes

// Ranges of n rows together, some of them empty, from the first row on: a gap behind each.
std::vector<RowRange> ranges_of(int64_t n, std::mt19937& rng) {
  std::vector<RowRange> ranges;
  int32_t row = kFirstRow;
  for (auto left = static_cast<int32_t>(n); left > 0;) {
    const int32_t size = std::min(left, static_cast<int32_t>(rng() % 3 == 0 ? rng() % 80 : rng() % 8));
    ranges.push_back({row, row + size});
    row += size + static_cast<int32_t>(rng() % 3);
    left -= size;
  }
  return ranges;
}

// Arguments of sketch_scores, all behind pointers that no vector is aligned to.
struct SketchCase {
  int64_t n_queries, n_rows, code_bytes;
  std::vector<uint8_t> tables;
  Stored query_scales;
  Bytes<uint8_t> codes;
  std::vector<uint16_t> scales;

  SketchCase(int64_t queries_of, int64_t rows, int64_t n_bytes, std::mt19937& rng)
      : n_queries(queries_of),
        n_rows(rows),
        code_bytes(n_bytes),
        tables(static_cast<size_t>(1 + n_queries * sketch_table_bytes(code_bytes)), 0),
        query_scales(DType::f32, n_queries, 1, rng),
        codes(n_rows * code_bytes, rng),
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
            .first_row = kFirstRow,
            .ranges = nullptr,
            .n_ranges = 0,
            .code_bytes = code_bytes,
            .out = nullptr,
            .out_stride = 0};
  }
  // A row's bits in groups of four, each with its entry.
  int64_t dot(int64_t query, int64_t row) const {
    const uint8_t* table = tables.data() + 1 + query * sketch_table_bytes(code_bytes);
    int64_t sum = 0;
    for (int64_t g = 0; g < 2 * code_bytes; ++g) {
      const uint8_t byte = codes.data()[row * code_bytes + g / 2];
      sum += table[16 * g + (g % 2 ? byte / 16 : byte % 16)] - kSketchTableZero;
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

  TEST_CASE("sketch_scores: the exact sum of entries, scaled; the same bits from every table") {
    std::mt19937 rng(2);
    for (const int64_t code_bytes : kCodeBytes) {
      CAPTURE(code_bytes);
      constexpr int64_t kRows = 500;  // of which 150 in ranges
      const SketchCase made(64, kRows, code_bytes, rng);
      SketchScoresArgs args = made.args();
      const RowRange all{kFirstRow, kFirstRow + static_cast<int32_t>(kRows)};
      std::vector<float> expected(64 * kRows);
      args.out = expected.data();
      args.out_stride = kRows;
      args.ranges = &all;
      args.n_ranges = 1;
      available_kernels().front()->sketch_scores(args);
      for (int64_t i = 0; i < 64; ++i) {
        for (int64_t j = 0; j < kRows; ++j) {
          const double product =
              double{made.query_scales[i]} * double{f16_to_f32(args.scales[j])} * static_cast<double>(made.dot(i, j));
          REQUIRE(near(expected[static_cast<size_t>(i * kRows + j)], product, kUnit * 2.01 * std::abs(product)));
        }
      }
      for (const Kernels* table : tables_under_test()) {
        for (const auto& [n_queries, n_rows] : kSketchSizes) {
          CAPTURE(n_queries);
          CAPTURE(n_rows);
          const int64_t stride = n_rows + 2;
          const RowRange whole{kFirstRow, kFirstRow + static_cast<int32_t>(n_rows)};
          for (const std::vector<RowRange>& ranges : {std::vector{whole}, ranges_of(n_rows, rng)}) {
            Guarded out(n_queries * stride);
            args = made.args();
            args.n_queries = n_queries;
            args.ranges = ranges.data();
            args.n_ranges = std::ssize(ranges);
            args.out = out.data();
            args.out_stride = stride;
            table->sketch_scores(args);
            CHECK(out.intact());
            for (int64_t i = 0; i < n_queries; ++i) {
              int64_t j = 0;
              for (const RowRange& range : ranges) {
                for (int32_t row = range.begin; row < range.end; ++row, ++j) {
                  REQUIRE(out[i * stride + j] == expected[static_cast<size_t>(i * kRows + row - kFirstRow)]);
                }
              }
              REQUIRE(j == n_rows);
              for (; j < stride; ++j) REQUIRE(out[i * stride + j] == kGuard);
            }
          }
        }
      }
    }
  }

  TEST_CASE("sketch_scores: the largest sums of both signs, and zero") {
    for (const Kernels* table : tables_under_test()) {
      const std::vector<uint16_t> scales(40, f32_to_f16(0.5f));
      std::mt19937 rng(3);
      const Bytes<uint8_t> codes(40 * kMaxCodeBytes, rng);
      for (const int entry : {0, kSketchTableZero, 2 * kSketchTableZero}) {
        const std::vector<uint8_t> entries(static_cast<size_t>(sketch_table_bytes(kMaxCodeBytes)),
                                           static_cast<uint8_t>(entry));
        const float two = 2.0f;
        for (const int64_t n_rows : {5, 40}) {
          Guarded out(n_rows);
          const RowRange rows{0, static_cast<int32_t>(n_rows)};
          table->sketch_scores(
              {entries.data(), 1, &two, codes.data(), scales.data(), 0, &rows, 1, kMaxCodeBytes, out.data(), n_rows});
          const auto sum = static_cast<float>(2 * kMaxCodeBytes * (entry - kSketchTableZero));
          for (int64_t j = 0; j < n_rows; ++j) CHECK(out[j] == sum);
        }
      }
    }
  }

  TEST_CASE("leaf_weights: exponentials of score and offset within their bound, summed per leaf") {
    std::mt19937 rng(5);
    for (const Kernels* table : tables_under_test()) {
      for (const std::vector<int32_t>& ends :
           {std::vector<int32_t>{}, {0}, {1}, {7}, {8}, {9}, {17, 17, 20}, {3, 40, 41, 80, 96, 97, 130}}) {
        for (const int64_t n_queries : {0, 1, 2, 3, 4, 5, 7, 9}) {
          const int64_t n = ends.empty() ? 0 : ends.back(), n_leaves = std::ssize(ends), stride = n + 2;
          const Stored scores(DType::f32, n_queries * stride, 1, rng, 40.0f);
          const Stored offsets(DType::f32, n_queries * (n_leaves + 1), 1, rng, 40.0f);
          Guarded weights(n_queries * stride), sums(n_queries * (n_leaves + 1)), highest(n_queries);
          for (int64_t i = 0; i < n_queries; ++i) highest.data()[i] = -kInfinity;
          table->leaf_weights({static_cast<const float*>(scores.data()), stride, n_queries, ends.data(), n_leaves,
                               static_cast<const float*>(offsets.data()), sums.data(), n_leaves + 1, weights.data(),
                               stride, highest.data()});
          CHECK(weights.intact());
          CHECK(sums.intact());
          CHECK(highest.intact());
          for (int64_t i = 0; i < n_queries; ++i) {
            double most = -INFINITY;
            int64_t j = 0;
            for (int64_t leaf = 0; leaf < n_leaves; ++leaf) {
              double sum = kGuard, error = kUnit * sum;
              for (; j < ends[static_cast<size_t>(leaf)]; ++j) {
                const double score = scores[i * stride + j], offset = offsets[i * (n_leaves + 1) + leaf];
                const double expected = std::exp(score + offset);
                const double bound = expected * (0x1p-18 + 0x1p-22 * (std::abs(score) + std::abs(offset)));
                REQUIRE(near(weights[i * stride + j], expected, bound));
                sum += expected;
                error += bound + kUnit * static_cast<double>(n + 2) * sum;
                most = std::max(most, score + offset);
              }
              REQUIRE(near(sums[i * (n_leaves + 1) + leaf], sum, error));
            }
            CHECK(sums[i * (n_leaves + 1) + n_leaves] == kGuard);
            CHECK(near(highest[i], most, 0x1p-21 * 80));
            for (; j < stride; ++j) CHECK(weights[i * stride + j] == kGuard);
          }
        }
      }
    }
  }

  TEST_CASE("leaf_weights: what is not finite shows; what is small stays small; the largest of several calls") {
    for (const Kernels* table : tables_under_test()) {
      for (const float odd : {kNan, kInfinity, -kInfinity, -1000.0f, 50.0f}) {
        for (const int32_t n : {1, 5, 8, 21}) {
          for (int32_t place = 0; place < n; ++place) {
            std::vector<float> scores(static_cast<size_t>(n), 1.0f), weights(scores.size());
            scores[static_cast<size_t>(place)] = odd;
            float offset = 0.5f, sum = 0, highest = 10;
            const LeafWeightsArgs args{scores.data(), n, 1, &n, 1, &offset, &sum, 1, weights.data(), n, &highest};
            table->leaf_weights(args);
            const bool finite = std::isfinite(odd);
            CHECK(std::isnan(highest) == !finite);
            if (finite) CHECK(highest == doctest::Approx(std::max(10.0f, odd + 0.5f)));
            if (odd == -1000.0f) CHECK(weights[static_cast<size_t>(place)] <= 1.2e-38f);
            scores[static_cast<size_t>(place)] = 1;
            table->leaf_weights(args);
            CHECK(std::isnan(highest) == !finite);
          }
        }
      }
    }
  }

  TEST_CASE("find_from: what is at least the limit, in order") {
    std::mt19937 rng(6);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n : kSizes) {
        Stored x(DType::f32, n, 1, rng);
        if (n > 2) x.set(n / 2, 0.25f);
        for (const float least : {-kInfinity, -0.5f, 0.25f, 0.9f, 2.0f}) {
          std::vector<int32_t> found(static_cast<size_t>(n)), expected;
          found.resize(
              static_cast<size_t>(table->find_from(static_cast<const float*>(x.data()), n, least, found.data())));
          for (int64_t i = 0; i < n; ++i) {
            if (x[i] >= least) expected.push_back(static_cast<int32_t>(i));
          }
          CHECK(found == expected);
        }
      }
    }
  }

  TEST_CASE("log within 2 ulp of the larger of 1 and itself; sum_squares_f16 within n roundings") {
    std::mt19937 rng(7);
    std::uniform_real_distribution<float> uniform(-80, 80);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n : kSizes) {
        std::vector<float> x;
        for (int64_t i = 0; i < n; ++i) x.push_back(std::exp(i % 3 == 0 ? uniform(rng) : uniform(rng) / 100));
        if (n > 0) x[0] = 0;
        if (n > 1) x[1] = 1;
        Guarded found(x);
        table->log(found.data(), n);
        CHECK(found.intact());
        for (int64_t i = 0; i < n; ++i) {
          const double expected = std::log(double{x[static_cast<size_t>(i)]});
          REQUIRE(near(found[i], expected, 4 * kUnit * std::max(1.0, std::abs(expected))));
        }
        const Stored halves(DType::f16, n, 1, rng, 10.0f);
        double squares = 0;
        for (int64_t i = 0; i < n; ++i) squares += double{halves[i]} * double{halves[i]};
        const float sum = table->sum_squares_f16(static_cast<const uint16_t*>(halves.data()), n);
        REQUIRE(near(sum, squares, kUnit * static_cast<double>(n + 1) * squares));
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
