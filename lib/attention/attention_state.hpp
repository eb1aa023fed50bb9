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
  AttentionState(int64_t n_rows, int64_t head_dim) { reset(n_rows, head_dim); }
  // The state of so many rows before anything was attended; memory is kept.
  void reset(int64_t n_rows, int64_t head_dim);
  // The same in two steps: rows that hold anything until clear() has been called for them.
  void resize(int64_t n_rows, int64_t head_dim);
  void clear(int64_t first_row, int64_t n_rows);

  int64_t n_rows() const { return static_cast<int64_t>(max.size()); }
  // Adds what `other`, with as many rows as [first_row, first_row + other.n_rows()), attended: log-sum-exp per row.
  void merge(const AttentionState& other, int64_t first_row = 0);
  // The same of n_rows of its rows, from other_row on. The state itself may be the other one.
  void merge_rows(const AttentionState& other, int64_t other_row, int64_t n_rows, int64_t first_row);
  // acc / sum, f32 [n_rows, head_dim]; zero where nothing was attended.
  Tensor output() const;
  void write_output(int64_t row, float* out) const;  // one row of it, to out [head_dim]
};

}  // namespace squeeze
