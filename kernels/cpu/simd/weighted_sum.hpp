// Weighted sums of rows, for several weightings at once: up to four against each row that is loaded.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

// V whole vectors of columns from c on, of Q accumulators.
template <int Q, int V>
SQUEEZE_INLINE void weighted_vectors(const WeightedSumArgs& a, int64_t i, int64_t c) {
  Vec total[Q][V];
  for (int q = 0; q < Q; ++q) {
    for (int v = 0; v < V; ++v) total[q][v] = load_f32(a.acc + (i + q) * a.dim + c + v * kLanes);
  }
  for (int64_t j = 0; j < a.n_rows; ++j) {
    Vec row[V];
    for (int v = 0; v < V; ++v) row[v] = load_f32(a.rows + j * a.dim + c + v * kLanes);
    for (int q = 0; q < Q; ++q) {
      const Vec weight = broadcast(a.weights[(i + q) * a.weights_stride + j]);
      for (int v = 0; v < V; ++v) total[q][v] = fma(weight, row[v], total[q][v]);
    }
  }
  for (int q = 0; q < Q; ++q) {
    for (int v = 0; v < V; ++v) store_f32(a.acc + (i + q) * a.dim + c + v * kLanes, total[q][v]);
  }
}

// The n < kLanes columns from c on.
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
inline void weighted_rows(const WeightedSumArgs& a, int64_t i) {
  constexpr int V = Q == 1 ? 4 : 2;
  int64_t c = 0;
  for (; c + V * kLanes <= a.dim; c += V * kLanes) weighted_vectors<Q, V>(a, i, c);
  for (; c + kLanes <= a.dim; c += kLanes) weighted_vectors<Q, 1>(a, i, c);
  if (c < a.dim) weighted_columns<Q>(a, i, c, a.dim - c);
}

inline void weighted_sum(const WeightedSumArgs& a) {
  int64_t i = 0;
  for (; i + 4 <= a.n_queries; i += 4) weighted_rows<4>(a, i);
  for (; i < a.n_queries; ++i) weighted_rows<1>(a, i);
}

}  // namespace
}  // namespace squeeze
