// Two passes of plain loops: logits and their maximum, then the weighted mean.
#include "lib/attention/exact.hpp"

#include <algorithm>
#include <cmath>

namespace squeeze {

std::vector<double> exact_weights(std::span<const float> query, TensorView keys, double softmax_scale,
                                  int64_t n_visible) {
  const int64_t head_dim = keys.size(1);
  std::vector<double> weights(static_cast<size_t>(keys.size(0)), 0.0);
  const auto n = static_cast<size_t>(std::min(n_visible, keys.size(0)));
  for (size_t row = 0; row < n; ++row) {
    for (int64_t c = 0; c < head_dim; ++c) {
      const float key = load_element(keys.data(), keys.dtype(), static_cast<int64_t>(row) * head_dim + c);
      weights[row] += double{query[static_cast<size_t>(c)]} * double{key};
    }
    weights[row] *= softmax_scale;
  }
  if (n == 0) return weights;
  const double max = *std::max_element(weights.begin(), weights.begin() + static_cast<int64_t>(n));
  double sum = 0;
  for (size_t row = 0; row < n; ++row) sum += weights[row] = std::exp(weights[row] - max);
  for (size_t row = 0; row < n; ++row) weights[row] /= sum;
  return weights;
}

std::vector<double> exact_attention(TensorView queries, TensorView keys, TensorView values, double softmax_scale,
                                    std::span<const int64_t> visible) {
  const int64_t head_dim = keys.size(1);
  std::vector<double> out(static_cast<size_t>(queries.size(0) * head_dim), 0.0);
  for (int64_t i = 0; i < queries.size(0); ++i) {
    const std::span<const float> query(queries[i].f32(), static_cast<size_t>(head_dim));
    const int64_t n_visible = visible.empty() ? keys.size(0) : visible[static_cast<size_t>(i)];
    const std::vector<double> weights = exact_weights(query, keys, softmax_scale, n_visible);
    for (int64_t row = 0; row < keys.size(0); ++row) {
      for (int64_t c = 0; c < head_dim; ++c) {
        const float value = load_element(values.data(), values.dtype(), row * head_dim + c);
        out[static_cast<size_t>(i * head_dim + c)] += weights[static_cast<size_t>(row)] * double{value};
      }
    }
  }
  return out;
}

}  // namespace squeeze
