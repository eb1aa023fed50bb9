// Indexed layers with their tokens in order, and error bounds, for the tests of attention and replay.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lib/attention/exact.hpp"
#include "lib/core/parallel.hpp"
#include "tests/made_layer.hpp"

namespace squeeze {

// A layer in token order and its index.
struct MadeContext {
  Tensor keys;  // [n_heads, n_tokens, dim]
  Tensor values;
  IndexLayer layer;

  MadeContext(int64_t n_heads, int64_t n_tokens, int64_t dim, DType dtype, std::vector<ClusterCount> levels,
              int32_t n_sinks = 2, int32_t n_window = 10)
      : keys(topic_keys(n_heads, n_tokens, dim, 5, 11, dtype)),
        values(random_tensor({n_heads, n_tokens, dim}, 12, dtype)),
        layer(build_layer(keys, values, options_with(std::move(levels), n_sinks, n_window))) {}
};

inline double largest_magnitude(TensorView x) {
  double largest = 0;
  for (int64_t i = 0; i < x.n_elements(); ++i) {
    largest = std::max(largest, std::fabs(double{load_element(x.data(), x.dtype(), i)}));
  }
  return largest;
}

// Largest error of float32 attention over n rows: a logit is a sum of dim products, each rounding at the size of
// the largest possible sum; a weight is off by twice a logit's error and a few roundings; sums over n rows.
inline double attention_bound(TensorView queries, TensorView keys, TensorView values, double scale) {
  const double eps = std::pow(2.0, -23);
  const auto dim = static_cast<double>(keys.size(keys.shape().rank() - 1));
  const auto n = static_cast<double>(keys.n_elements()) / dim;
  const double logit_error = eps * (dim + 3) * scale * dim * largest_magnitude(queries) * largest_magnitude(keys);
  return (2 * logit_error + eps * (n + 16)) * largest_magnitude(values);
}

inline double largest_difference(TensorView x, const std::vector<double>& truth) {
  double largest = x.n_elements() == static_cast<int64_t>(truth.size()) ? 0 : INFINITY;
  for (size_t i = 0; i < truth.size() && largest < INFINITY; ++i) {
    const double difference = std::fabs(double{x.f32()[i]} - truth[i]);
    largest = std::isfinite(difference) ? std::max(largest, difference) : INFINITY;
  }
  return largest;
}

inline bool same_bytes(TensorView a, TensorView b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.data(), b.data(), a.n_bytes()) == 0;
}

// The given rows of [n, dim], in that order.
inline Tensor rows_of(TensorView rows, const std::vector<int64_t>& which) {
  Tensor out(rows.dtype(), {static_cast<int64_t>(which.size()), rows.size(1)});
  for (size_t i = 0; i < which.size(); ++i) {
    std::memcpy(out.at(static_cast<int64_t>(i) * rows.size(1)), rows[which[i]].data(), rows[0].n_bytes());
  }
  return out;
}

// Puts the number of threads back at the end of a test.
struct ThreadsGuard {
  int before = n_threads();
  ~ThreadsGuard() { set_threads(before); }
};

}  // namespace squeeze
