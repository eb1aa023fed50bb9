// Tests of attend: every table against softmax in double, and the laws of the running state.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernel_cases.hpp"

namespace squeeze {
namespace {

using namespace test;

struct Problem {
  int64_t n_queries, dim, n_rows;
  std::vector<float> queries;
  Stored keys, values;
  std::vector<RowRange> ranges;
  std::vector<int64_t> visible;                 // empty: every row
  std::vector<float> bias;                      // empty: none
  std::vector<float> key_scales, value_scales;  // of i8 rows, else empty
  float scale;

  Problem(int64_t queries_, int64_t dim_, int64_t rows, DType dtype, std::mt19937& rng)
      : n_queries(queries_),
        dim(dim_),
        n_rows(rows),
        queries(random_floats(queries_ * dim_, rng, 2.0f)),
        keys(dtype, rows * dim_, 1, rng, 2.0f),
        values(dtype, rows * dim_, 1, rng),
        ranges{{0, static_cast<int32_t>(rows)}},
        scale(1 / std::sqrt(static_cast<float>(dim_))) {
    if (dtype != DType::i8) return;
    key_scales = make_integers(keys, rng, 2.0f);
    value_scales = make_integers(values, rng, 1.0f);
  }

  // Fills i8 rows, and gives them scales that keep the numbers they stand for below the magnitude.
  std::vector<float> make_integers(Stored& rows, std::mt19937& rng, float magnitude) const {
    std::uniform_real_distribution<float> steps(-127, 127), scale_of(0, magnitude / 127);
    for (int64_t i = 0; i < n_rows * dim; ++i) rows.set(i, steps(rng));
    std::vector<float> scales;
    for (int64_t row = 0; row < n_rows; ++row) scales.push_back(row % 11 == 5 ? 0.0f : scale_of(rng));
    return scales;
  }

  double key_scale(int64_t row) const { return key_scales.empty() ? 1 : double{key_scales[size_t(row)]}; }
  double value_scale(int64_t row) const { return value_scales.empty() ? 1 : double{value_scales[size_t(row)]}; }
};

struct State {
  std::vector<float> acc, max, sum;

  explicit State(const Problem& p)
      : acc(size_t(p.n_queries * p.dim), 0.0f), max(size_t(p.n_queries), -kInfinity), sum(size_t(p.n_queries), 0.0f) {}
  friend bool operator==(const State&, const State&) = default;
};

// Runs the queries [begin, end) of the problem.
void run(const Kernels& table, const Problem& p, State& state, int64_t begin, int64_t end) {
  table.attend({p.queries.data() + begin * p.dim, end - begin, p.dim, p.scale, p.keys.data(), p.values.data(),
                p.keys.dtype, p.ranges.data(), static_cast<int64_t>(p.ranges.size()),
                p.visible.empty() ? nullptr : p.visible.data() + begin, p.bias.empty() ? nullptr : p.bias.data(),
                state.acc.data() + begin * p.dim, state.max.data() + begin, state.sum.data() + begin,
                p.key_scales.empty() ? nullptr : p.key_scales.data(),
                p.value_scales.empty() ? nullptr : p.value_scales.data()});
}

State run(const Kernels& table, const Problem& p) {
  State state(p);
  run(table, p, state, 0, p.n_queries);
  return state;
}

struct Expected {
  std::vector<double> output;
  double log_sum_exp;
  double bound;  // of the relative error of each weight and of each sum
  int64_t n_seen;
};

// Softmax of one query in double.
//
// Bound: a logit is off by (dim + 4) roundings of its terms (the products with both scales and the bias included), so
// is the exponential, relatively, plus one rounding of logit - max, 2 ulp of exp and a product with the value's scale;
// an accumulator is added to and rescaled (exp: 2 ulp = 4 units, product: 1) at most once per row.
Expected expected(const Problem& p, int64_t query) {
  Expected e{std::vector<double>(size_t(p.dim)), 0, 0, 0};
  std::vector<std::pair<double, int64_t>> logits;
  double max = -INFINITY, logit_error = 0;
  for (const RowRange& range : p.ranges) {
    for (int64_t row = range.begin; row < range.end; ++row) {
      if (!p.visible.empty() && row >= p.visible[size_t(query)]) continue;
      const double bias = p.bias.empty() ? 0 : double{p.bias[size_t(row)]};
      if (bias == -INFINITY) continue;
      const Dot d = dot(p.queries, query * p.dim, p.keys, row * p.dim, p.dim);
      const double scale = double{p.scale} * p.key_scale(row);
      const double size = std::abs(scale) * d.size + std::abs(bias);
      logit_error = std::max(logit_error, static_cast<double>(p.dim + 4) * kUnit * size + 2 * kUnit * size);
      logits.push_back({scale * d.value + bias, row});
      max = std::max(max, logits.back().first);
    }
  }
  double sum = 0;
  for (const auto& [logit, row] : logits) {
    const double weight = std::exp(logit - max);
    sum += weight;
    for (int64_t c = 0; c < p.dim; ++c) {
      e.output[size_t(c)] += weight * p.value_scale(row) * double{p.values[row * p.dim + c]};
    }
  }
  for (double& x : e.output) x /= sum;
  e.n_seen = static_cast<int64_t>(logits.size());
  e.log_sum_exp = max + std::log(sum);
  e.bound = 2 * logit_error + 5 * kUnit + 6 * kUnit * static_cast<double>(e.n_seen);
  return e;
}

void check(const Problem& p, const State& state) {
  for (int64_t i = 0; i < p.n_queries; ++i) {
    const Expected e = expected(p, i);
    const float max = state.max[size_t(i)], sum = state.sum[size_t(i)];
    if (e.n_seen == 0) {
      CHECK(max == -kInfinity);
      CHECK(sum == 0.0f);
      for (int64_t c = 0; c < p.dim; ++c) CHECK(state.acc[size_t(i * p.dim + c)] == 0.0f);
      continue;
    }
    const double log_sum_exp = double{max} + std::log(double{sum});
    CHECK(std::abs(log_sum_exp - e.log_sum_exp) <= e.bound);
    for (int64_t c = 0; c < p.dim; ++c) {
      const double found = double{state.acc[size_t(i * p.dim + c)]} / double{sum};
      CHECK(std::abs(found - e.output[size_t(c)]) <= 2 * e.bound);  // values are at most 1; weights and sum are off
    }
  }
}

// Both regimes of every table: up to 8 query rows, and more.
const int64_t kQueryCounts[] = {1, 2, 4, 5, 8, 9, 16, 33};
const DType kAttendDTypes[] = {DType::f32, DType::f16, DType::bf16, DType::i8};

TEST_SUITE("attend") {
  TEST_CASE("any number of rows and queries, any head_dim, any type") {
    std::mt19937 rng(11);
    int turn = 0;
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_rows : kSizes) {
        for (const int64_t n_queries : kQueryCounts) {
          const int64_t dims[] = {1, 8, 15, 16, 33, 64, 80, 96, 128};
          const Problem p(n_queries, dims[turn % 9], n_rows, kAttendDTypes[(turn + turn / 8) % 4], rng);
          ++turn;
          CAPTURE(table->isa);
          CAPTURE(n_rows);
          CAPTURE(n_queries);
          CAPTURE(p.dim);
          check(p, run(*table, p));
        }
      }
    }
  }

  TEST_CASE("the largest head_dim and more queries than a block holds") {
    std::mt19937 rng(12);
    for (const Kernels* table : tables_under_test()) {
      const Problem wide(9, kMaxHeadDim, 101, DType::bf16, rng);
      check(wide, run(*table, wide));
      const Problem few(3, kMaxHeadDim, 101, DType::f16, rng);
      check(few, run(*table, few));
      for (const int64_t n_queries : {3, 9}) {
        const Problem integers(n_queries, kMaxHeadDim, 101, DType::i8, rng);
        check(integers, run(*table, integers));
      }
      const Problem tall(131, 16, 200, DType::f32, rng);
      check(tall, run(*table, tall));
    }
  }

  TEST_CASE("causal: each query sees the rows before its limit") {
    std::mt19937 rng(13);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {3, 7, 40, 150}) {
        Problem p(n_queries, 24, 230, DType::bf16, rng);
        for (int64_t i = 0; i < n_queries; ++i) p.visible.push_back(i < 2 ? 0 : p.n_rows - n_queries + i);
        p.visible.back() = int64_t{1} << 40;
        check(p, run(*table, p));
      }
    }
  }

  TEST_CASE("short ranges, empty ranges, rows out of order") {
    std::mt19937 rng(14);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {4, 20}) {
        for (const DType dtype : {DType::bf16, DType::i8}) {
          Problem p(n_queries, 64, 400, dtype, rng);
          p.ranges = {{390, 400}, {0, 0}, {5, 5}};
          for (int32_t row = 1; row < 380; row += 3) p.ranges.push_back({row, row + 1 + row % 2});
          check(p, run(*table, p));
          for (int64_t i = 0; i < n_queries; ++i) p.visible.push_back(17 * i + 1);
          check(p, run(*table, p));
          p.ranges.clear();
          check(p, run(*table, p));
        }
      }
    }
  }

  TEST_CASE("row_bias: log N counts a row N times, -infinity leaves it out whatever it holds") {
    std::mt19937 rng(15);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {3, 30}) {
        Problem p(n_queries, 40, 90, DType::f32, rng);
        for (int64_t row = 0; row < p.n_rows; ++row) p.bias.push_back(std::log(static_cast<float>(1 + row % 5)));
        check(p, run(*table, p));
        Problem without = p;
        without.ranges = {{0, 30}, {31, 60}, {61, 89}};
        for (const int64_t row : {30, 60, 89}) {
          p.bias[size_t(row)] = -kInfinity;
          for (int64_t c = 0; c < p.dim; ++c) p.keys.set(row * p.dim + c, kNan);
          for (int64_t c = 0; c < p.dim; ++c) p.values.set(row * p.dim + c, kNan);
        }
        CHECK(run(*table, p) == run(*table, without));
      }
    }
  }

  TEST_CASE("several calls give the softmax over the union; a call that sees nothing changes nothing") {
    std::mt19937 rng(16);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 6, 50}) {
        Problem p(n_queries, 32, 300, DType::f16, rng);
        State state(p);
        for (const RowRange part : {RowRange{0, 7}, RowRange{7, 200}, RowRange{200, 300}}) {
          p.ranges = {part};
          run(*table, p, state, 0, n_queries);
        }
        p.ranges = {{0, 300}};
        check(p, state);
        const State before = state;
        p.visible.assign(size_t(n_queries), 0);
        run(*table, p, state, 0, n_queries);
        CHECK(state == before);
        p.visible.clear();
        p.bias.assign(300, -kInfinity);
        run(*table, p, state, 0, n_queries);
        CHECK(state == before);
      }
    }
  }

  TEST_CASE("logits far apart neither overflow nor vanish into NaN") {
    std::mt19937 rng(17);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 20}) {
        Problem p(n_queries, 16, 200, DType::f32, rng);
        p.scale = 50.0f;
        check(p, run(*table, p));
        p.scale = -50.0f;
        check(p, run(*table, p));
      }
    }
  }

  TEST_CASE("rows that no query sees are not read") {
    std::mt19937 rng(18);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 20}) {
        Problem p(n_queries, 16, 100, DType::bf16, rng);
        for (int64_t i = 77 * p.dim; i < 100 * p.dim; ++i) p.values.set(i, kNan);
        for (int64_t i = 77 * p.dim; i < 100 * p.dim; ++i) p.keys.set(i, kNan);
        p.visible.assign(size_t(n_queries), 77);
        check(p, run(*table, p));
      }
    }
  }

  TEST_CASE("NaN in a visible row is not hidden") {
    std::mt19937 rng(19);
    for (const Kernels* table : tables_under_test()) {
      for (const int64_t n_queries : {2, 20}) {
        Problem p(n_queries, 16, 100, DType::bf16, rng);
        p.keys.set(50 * p.dim + 3, kNan);
        const State state = run(*table, p);
        for (const float sum : state.sum) CHECK(std::isnan(sum));
      }
    }
  }

  TEST_CASE("a query's bits do not depend on the other queries of the call") {
    std::mt19937 rng(20);
    for (const Kernels* table : tables_under_test()) {
      for (const auto& [n_queries, cut] : {std::pair<int64_t, int64_t>{4, 1}, {8, 5}, {100, 43}, {300, 150}}) {
        for (const DType dtype : {DType::bf16, DType::i8}) {
          Problem p(n_queries, 40, 333, dtype, rng);
          p.ranges = {{0, 90}, {95, 96}, {99, 333}};
          for (int64_t i = 0; i < n_queries; ++i) p.visible.push_back(40 + i);
          const State whole = run(*table, p);
          State parts(p);
          run(*table, p, parts, 0, cut);
          run(*table, p, parts, cut, n_queries);
          CHECK(parts == whole);
          check(p, parts);
        }
      }
    }
  }
}

}  // namespace
}  // namespace squeeze
