// Indexed layers with their tokens in order, new tokens after them, and error bounds, for the tests of attention and
// replay.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/attention/exact.hpp"
#include "lib/core/parallel.hpp"
#include "lib/model/context.hpp"
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

inline constexpr float kMadeScale = 0.35f;

inline ModelInfo model_of(int n_query_heads, int n_kv_heads, int head_dim) {
  ModelInfo model;
  model.n_layers = 1;
  model.n_query_heads = n_query_heads;
  model.n_kv_heads = n_kv_heads;
  model.head_dim = head_dim;
  model.softmax_scale = kMadeScale;
  return model;
}

// New tokens' projections, [n, heads, dim].
struct NewTokens {
  Tensor queries, keys, values;

  NewTokens(const ModelInfo& m, int64_t n)
      : queries(random_tensor({n, m.n_query_heads, m.head_dim}, 31)),
        keys(random_tensor({n, m.n_kv_heads, m.head_dim}, 32)),
        values(random_tensor({n, m.n_kv_heads, m.head_dim}, 33)) {}

  AttentionInput input(int64_t first_position, int64_t begin, int64_t end) const {
    return {0, first_position + begin, queries.view().slice(begin, end), keys.view().slice(begin, end),
            values.view().slice(begin, end)};
  }
};

// Causal attention by the definition, of all query heads, over the context in token order and the new tokens, which
// are rounded to the context's type.
inline std::vector<double> truth_of(const ModelInfo& m, TensorView keys, TensorView values, const NewTokens& tokens) {
  const int64_t n = tokens.queries.size(0), n_context = keys.size(1), dim = m.head_dim;
  std::vector<double> truth(static_cast<size_t>(n * m.n_query_heads * dim));
  for (int64_t head = 0; head < m.n_query_heads; ++head) {
    const int64_t kv_head = head / m.group_size();
    Tensor all_keys(keys.dtype(), {n_context + n, dim}), all_values(keys.dtype(), {n_context + n, dim});
    std::memcpy(all_keys.data(), keys[kv_head].data(), keys[kv_head].n_bytes());
    std::memcpy(all_values.data(), values[kv_head].data(), values[kv_head].n_bytes());
    for (int64_t i = 0; i < n * dim; ++i) {
      const int64_t from = (i / dim * m.n_kv_heads + kv_head) * dim + i % dim;
      store_element(all_keys.data(), keys.dtype(), n_context * dim + i, tokens.keys.f32()[from]);
      store_element(all_values.data(), keys.dtype(), n_context * dim + i, tokens.values.f32()[from]);
    }
    for (int64_t t = 0; t < n; ++t) {
      const TensorView query(tokens.queries[t][head].data(), DType::f32, {1, dim});
      const int64_t visible = n_context + t + 1;
      const std::vector<double> out = exact_attention(query, all_keys, all_values, kMadeScale, {&visible, 1});
      std::copy(out.begin(), out.end(), truth.begin() + (t * m.n_query_heads + head) * dim);
    }
  }
  return truth;
}

// The bound for context and tail together.
inline double bound_of(TensorView keys, TensorView values, const NewTokens& tokens) {
  return attention_bound(tokens.queries, keys, values, kMadeScale) +
         attention_bound(tokens.queries, tokens.keys, tokens.values, kMadeScale);
}

// Puts the number of threads back at the end of a test.
struct ThreadsGuard {
  int before = n_threads();
  ~ThreadsGuard() { set_threads(before); }
};

}  // namespace squeeze
