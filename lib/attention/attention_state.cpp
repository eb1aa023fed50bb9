// Merging and normalising of running softmax states.
#include "lib/attention/attention_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/core/error.hpp"
#include "lib/core/scratch.hpp"

namespace squeeze {

void AttentionState::reset(int64_t n_rows, int64_t head_dim) {
  resize(n_rows, head_dim);
  clear(0, n_rows);
}

void AttentionState::resize(int64_t n_rows, int64_t head_dim) {
  acc.resize(DType::f32, {n_rows, head_dim});
  resize_with_room(max, static_cast<size_t>(n_rows));
  resize_with_room(sum, static_cast<size_t>(n_rows));
}

void AttentionState::clear(int64_t first_row, int64_t n_rows) {
  const int64_t head_dim = acc.size(1);
  std::fill_n(acc.f32() + first_row * head_dim, n_rows * head_dim, 0.0f);
  std::fill_n(max.begin() + first_row, n_rows, -std::numeric_limits<float>::infinity());
  std::fill_n(sum.begin() + first_row, n_rows, 0.0f);
}

void AttentionState::merge(const AttentionState& other, int64_t first_row) {
  merge_rows(other, 0, other.n_rows(), first_row);
}

void AttentionState::merge_rows(const AttentionState& other, int64_t other_row, int64_t n_merged, int64_t first_row) {
  const int64_t head_dim = acc.size(1);
  if (other.acc.size(1) != head_dim || first_row < 0 || first_row + n_merged > n_rows()) {
    fail("cannot merge an attention state of shape {} into one of shape {} at row {}", other.acc.shape().str(),
         acc.shape().str(), first_row);
  }
  for (int64_t i = 0; i < n_merged; ++i) {
    const auto from = static_cast<size_t>(other_row + i);
    const auto to = static_cast<size_t>(first_row + i);
    if (other.sum[from] == 0.0f) continue;
    const float joint = std::max(max[to], other.max[from]);
    const float own_weight = std::exp(max[to] - joint);
    const float other_weight = std::exp(other.max[from] - joint);
    float* row = acc.f32() + (first_row + i) * head_dim;
    const float* added = other.acc.f32() + (other_row + i) * head_dim;
    for (int64_t c = 0; c < head_dim; ++c) row[c] = row[c] * own_weight + added[c] * other_weight;
    sum[to] = sum[to] * own_weight + other.sum[from] * other_weight;
    max[to] = joint;
  }
}

Tensor AttentionState::output() const {
  const int64_t head_dim = acc.size(1);
  Tensor out(DType::f32, acc.shape());
  for (int64_t i = 0; i < n_rows(); ++i) write_output(i, out.f32() + i * head_dim);
  return out;
}

void AttentionState::write_output(int64_t row, float* out) const {
  const int64_t head_dim = acc.size(1);
  const float* from = acc.f32() + row * head_dim;
  const float total = sum[static_cast<size_t>(row)];
  for (int64_t c = 0; c < head_dim; ++c) out[c] = total == 0.0f ? 0.0f : from[c] / total;
}

}  // namespace squeeze
