// Merging and normalising of running softmax states.
#include "lib/attention/attention_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/core/error.hpp"

namespace squeeze {

AttentionState::AttentionState(int64_t n_rows, int64_t head_dim)
    : acc(Tensor::zeros(DType::f32, {n_rows, head_dim})),
      max(static_cast<size_t>(n_rows), -std::numeric_limits<float>::infinity()),
      sum(static_cast<size_t>(n_rows), 0.0f) {}

void AttentionState::merge(const AttentionState& other, int64_t first_row) {
  const int64_t head_dim = acc.size(1);
  if (other.acc.size(1) != head_dim || first_row < 0 || first_row + other.n_rows() > n_rows()) {
    fail("cannot merge an attention state of shape {} into one of shape {} at row {}", other.acc.shape().str(),
         acc.shape().str(), first_row);
  }
  for (int64_t i = 0; i < other.n_rows(); ++i) {
    const auto from = static_cast<size_t>(i);
    const auto to = static_cast<size_t>(first_row + i);
    if (other.sum[from] == 0.0f) continue;
    const float joint = std::max(max[to], other.max[from]);
    const float own_weight = std::exp(max[to] - joint);
    const float other_weight = std::exp(other.max[from] - joint);
    float* row = acc.f32() + (first_row + i) * head_dim;
    const float* other_row = other.acc.f32() + i * head_dim;
    for (int64_t c = 0; c < head_dim; ++c) row[c] = row[c] * own_weight + other_row[c] * other_weight;
    sum[to] = sum[to] * own_weight + other.sum[from] * other_weight;
    max[to] = joint;
  }
}

Tensor AttentionState::output() const {
  const int64_t head_dim = acc.size(1);
  Tensor out(DType::f32, acc.shape());
  for (int64_t i = 0; i < n_rows(); ++i) {
    const float total = sum[static_cast<size_t>(i)];
    for (int64_t c = i * head_dim; c < (i + 1) * head_dim; ++c) {
      out.f32()[c] = total == 0.0f ? 0.0f : acc.f32()[c] / total;
    }
  }
  return out;
}

}  // namespace squeeze
