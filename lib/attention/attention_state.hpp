// The running softmax of a block of queries: un-normalised sums that can be merged, so that attention over a union of
// rows can be computed part by part.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

struct AttentionState {
  Tensor acc;              // f32 [n_rows, head_dim], sum of exp(logit - max) * value
  std::vector<float> max;  // [n_rows]; -infinity where nothing was attended
  std::vector<float> sum;  // [n_rows], sum of exp(logit - max)

  AttentionState() = default;
  AttentionState(int64_t n_rows, int64_t head_dim);

  int64_t n_rows() const { return static_cast<int64_t>(max.size()); }
  // Adds what `other`, with as many rows as [first_row, first_row + other.n_rows()), attended: log-sum-exp per row.
  void merge(const AttentionState& other, int64_t first_row = 0);
  // acc / sum, f32 [n_rows, head_dim]; zero where nothing was attended.
  Tensor output() const;
};

}  // namespace squeeze
