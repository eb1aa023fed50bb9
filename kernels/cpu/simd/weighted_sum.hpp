// Weighted sums of rows, for several weightings at once: two query rows against each row that is loaded.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

// Columns [c, c + n) of Q accumulators, n at most kLanes.
template <int Q>
SQUEEZE_INLINE void weighted_columns(const WeightedSumArgs& a, int64_t i, int64_t c, int64_t n) {
  Vec total[Q];
  for (int q = 0; q < Q; ++q) total[q] = load_f32_some(a.acc + (i + q) * a.dim + c, n);
  for (int64_t j = 0; j < a.n_rows; ++j) {
    const Vec row = load_f32_some(a.rows + j * a.dim + c, n);
    for (int q = 0; q < Q; ++q) total[q] = fma(broadcast(a.weights[(i + q) * a.weights_stride + j]), row, total[q]);
  }
  for (int q = 0; q < Q; ++q) store_f32_some(a.acc + (i + q) * a.dim + c, total[q], n);
}

template <int Q>
SQUEEZE_INLINE void weighted_rows(const WeightedSumArgs& a, int64_t i) {
  for (int64_t c = 0; c < a.dim; c += kLanes) weighted_columns<Q>(a, i, c, smaller(kLanes, a.dim - c));
}

inline void weighted_sum(const WeightedSumArgs& a) {
  int64_t i = 0;
  for (; i + 4 <= a.n_queries; i += 4) weighted_rows<4>(a, i);
  for (; i < a.n_queries; ++i) weighted_rows<1>(a, i);
}

}  // namespace
}  // namespace squeeze
