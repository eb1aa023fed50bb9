// A call of attend on made rows, its softmax in double, and the check of what a kernel makes of it.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "tests/kernel_cases.hpp"

namespace squeeze::test {

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
  double split = 0;  // how far, relatively, the kernel's queries and weights are from the float32 ones

  explicit State(const Problem& p)
      : acc(size_t(p.n_queries * p.dim), 0.0f), max(size_t(p.n_queries), -kInfinity), sum(size_t(p.n_queries), 0.0f) {}
  friend bool operator==(const State&, const State&) = default;
};

// Runs the queries [begin, end) of the problem.
inline void run(const Kernels& table, const Problem& p, State& state, int64_t begin, int64_t end) {
  const bool splits = std::string(table.isa) == "amx" && p.keys.dtype == DType::bf16;
  state.split = splits ? 0x1p-17 : 0;
  table.attend({p.queries.data() + begin * p.dim, end - begin, p.dim, p.scale, p.keys.data(), p.values.data(),
                p.keys.dtype, p.ranges.data(), static_cast<int64_t>(p.ranges.size()),
                p.visible.empty() ? nullptr : p.visible.data() + begin, p.bias.empty() ? nullptr : p.bias.data(),
                state.acc.data() + begin * p.dim, state.max.data() + begin, state.sum.data() + begin,
                p.key_scales.empty() ? nullptr : p.key_scales.data(),
                p.value_scales.empty() ? nullptr : p.value_scales.data()});
}

inline State run(const Kernels& table, const Problem& p) {
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
// an accumulator is added to and rescaled (exp: 2 ulp = 4 units, product: 1) at most once per row. A kernel that splits
// queries and weights into two bf16 terms is off by 2^-17 of each more.
inline Expected expected(const Problem& p, int64_t query, double split) {
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
      logit_error = std::max(logit_error, (static_cast<double>(p.dim + 6) * kUnit + split) * size);
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
  e.bound = 2 * logit_error + split + 5 * kUnit + 6 * kUnit * static_cast<double>(e.n_seen);
  return e;
}

inline void check(const Problem& p, const State& state) {
  for (int64_t i = 0; i < p.n_queries; ++i) {
    const Expected e = expected(p, i, state.split);
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

}  // namespace squeeze::test
