// attend for a few query rows (decoding): keys and values stream from memory once, in their stored type.
//
// Rows come in blocks: logits of the block by dot tiles along head_dim, online softmax, then values are added with
// accumulators in registers; the next block is fetched meanwhile. Bound by memory bandwidth for 1 to 4 queries. With
// ascending ranges the blocks that a query sees, and so its result, do not depend on the other queries of the call.
#pragma once

#include "kernels/cpu/simd/dot.hpp"
#include "kernels/cpu/simd/row_cursor.hpp"

namespace squeeze {
namespace {

constexpr int kFewQueries = 8;    // with more, attend_many is faster
constexpr int kFewBlock = 32;     // rows of a block; a multiple of kLanes
constexpr int kValueVectors = 4;  // value vectors of one pass, for kDotRows queries at a time

struct FewScratch {
  RowBlock<kFewBlock> rows;
  RowBlock<kFewBlock> next;
  alignas(64) float weight[kFewQueries][kFewBlock];  // logits, then exp(logit - max)
  float shrink[kFewQueries];                         // what earlier sums are multiplied by
};

template <DType T>
SQUEEZE_INLINE const char* row_at(const void* matrix, int64_t dim, int32_t row) {
  return static_cast<const char*>(matrix) + row * dim * kElementBytes<T>;
}

// Into the second-level cache: the first one is full of the block at work.
SQUEEZE_INLINE void prefetch(const char* row, int64_t n_bytes) {
  for (int64_t i = 0; i < n_bytes; i += 64) _mm_prefetch(row + i, _MM_HINT_T1);
}

template <DType T>
inline void block_logits(const AttendArgs& a, FewScratch& s) {
  for (int k = 0; k < s.rows.n; k += 4) {
    FourRows keys;
    for (int r = 0; r < 4; ++r) {
      const int in_block = k + r < s.rows.n ? k + r : s.rows.n - 1;
      keys.row[r] = row_at<T>(a.keys, a.dim, s.rows.row[in_block]);
      if (k + r < s.next.n) prefetch(row_at<T>(a.keys, a.dim, s.next.row[k + r]), a.dim * kElementBytes<T>);
    }
    dot_rows<T>(a.queries, 0, a.n_queries, keys, a.dim,
                [&](int64_t i, __m128 dots) { _mm_store_ps(&s.weight[i][k], dots); });
  }
}

// Turns the logits of one query into weights and moves its maximum and sum on.
inline void block_softmax(const AttendArgs& a, FewScratch& s, int64_t query) {
  float* weight = s.weight[query];
  const Vec scale = broadcast(a.scale);
  const IntVec visible = broadcast_int(visible_rows(a, query));
  Vec block_max = broadcast(-__builtin_inff());
  for (int k = 0; k < s.rows.n; k += kLanes) {
    const Vec logit = fma(load_f32(weight + k), scale, load_f32(s.rows.bias + k));
    const Vec kept = keep_if_less(logit, load_int(s.rows.row + k), visible);
    block_max = max(kept, block_max);
    store_f32(weight + k, kept);
  }
  const float old_max = a.max[query];
  const float found = largest(block_max);
  const float new_max = found > old_max ? found : old_max;
  // With nothing seen so far every weight must come out 0, not NaN.
  const float shift = new_max == -__builtin_inff() ? 0.0f : new_max;
  Vec total = zero();
  for (int k = 0; k < s.rows.n; k += kLanes) {
    const Vec e = exp(sub(load_f32(weight + k), broadcast(shift)));
    total = add(total, e);
    store_f32(weight + k, e);
  }
  s.shrink[query] = exp_of(old_max - shift);
  a.sum[query] = a.sum[query] * s.shrink[query] + sum(total);
  a.max[query] = new_max;
}

// acc[first + i][c ..] = acc * shrink + sum over the block of weight * value, for Q queries and V vectors of columns.
// The first queries fetch the next block's values ahead.
template <DType T, int Q, int V>
SQUEEZE_INLINE void add_columns(const AttendArgs& a, const FewScratch& s, int64_t first, int64_t c) {
  Vec total[Q][V];
  for (int i = 0; i < Q; ++i) {
    const float* acc = a.acc + (first + i) * a.dim + c;
    for (int v = 0; v < V; ++v) total[i][v] = mul(load_f32(acc + v * kLanes), broadcast(s.shrink[first + i]));
  }
  for (int k = 0; k < s.rows.n; ++k) {
    const char* value = row_at<T>(a.values, a.dim, s.rows.row[k]);
    if (first == 0 && k < s.next.n)
      prefetch(row_at<T>(a.values, a.dim, s.next.row[k]) + c * kElementBytes<T>, V * kLanes * kElementBytes<T>);
    Vec x[V];
    for (int v = 0; v < V; ++v) x[v] = load<T>(value, c + v * kLanes);
    for (int i = 0; i < Q; ++i) {
      const Vec weight = broadcast(s.weight[first + i][k]);
      for (int v = 0; v < V; ++v) total[i][v] = fma(weight, x[v], total[i][v]);
    }
  }
  for (int i = 0; i < Q; ++i) {
    for (int v = 0; v < V; ++v) store_f32(a.acc + (first + i) * a.dim + c + v * kLanes, total[i][v]);
  }
}

// The same for the last dim - c < kLanes columns.
template <DType T, int Q>
SQUEEZE_INLINE void add_last_columns(const AttendArgs& a, const FewScratch& s, int64_t first, int64_t c) {
  const int64_t n = a.dim - c;
  Vec total[Q];
  for (int i = 0; i < Q; ++i) {
    total[i] = mul(load_f32_some(a.acc + (first + i) * a.dim + c, n), broadcast(s.shrink[first + i]));
  }
  for (int k = 0; k < s.rows.n; ++k) {
    const Vec x = load_some<T>(row_at<T>(a.values, a.dim, s.rows.row[k]), c, n);
    for (int i = 0; i < Q; ++i) total[i] = fma(broadcast(s.weight[first + i][k]), x, total[i]);
  }
  for (int i = 0; i < Q; ++i) store_f32_some(a.acc + (first + i) * a.dim + c, total[i], n);
}

// The queries from `first` on, Q at a time, then the rest at once.
template <DType T, int Q>
inline void add_values(const AttendArgs& a, const FewScratch& s, int64_t first) {
  for (; first + Q <= a.n_queries; first += Q) {
    int64_t c = 0;
    for (; c + kValueVectors * kLanes <= a.dim; c += kValueVectors * kLanes) {
      add_columns<T, Q, kValueVectors>(a, s, first, c);
    }
    for (; c + kLanes <= a.dim; c += kLanes) add_columns<T, Q, 1>(a, s, first, c);
    if (c < a.dim) add_last_columns<T, Q>(a, s, first, c);
  }
  if constexpr (Q > 1) {
    if (first < a.n_queries) add_values<T, Q - 1>(a, s, first);
  }
}

template <DType T>
inline void attend_few(const AttendArgs& a) {
  FewScratch s;
  RowCursor cursor(a);
  cursor.take(s.rows);
  while (s.rows.n > 0) {
    cursor.take(s.next);
    block_logits<T>(a, s);
    if constexpr (T == DType::i8) scale_rows(s.rows, a.key_scales, a.n_queries, s.weight);
    for (int64_t i = 0; i < a.n_queries; ++i) block_softmax(a, s, i);
    if constexpr (T == DType::i8) scale_rows(s.rows, a.value_scales, a.n_queries, s.weight);
    add_values<T, kDotRows>(a, s, 0);
    s.rows = s.next;
  }
}

}  // namespace
}  // namespace squeeze
