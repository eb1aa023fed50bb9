// attend for a few query rows (decoding): keys and values stream from memory once, in their stored type.
//
// Rows come in blocks: dots of all queries with a few rows at a time, online softmax, then values are added with
// accumulators in registers; the next block is fetched meanwhile. Queries go in groups of four, which lie side by side
// in the vectors of the softmax, so that it needs no sum across lanes. Queries and accumulators are kept in pair order
// (pair_order.hpp), so that a loaded row is converted once per group. Bound by memory bandwidth for few queries. With
// ascending ranges the blocks that a query sees, and so its result, do not depend on the other queries of the call.
#pragma once

#include "kernels/cpu/simd/pair_order.hpp"
#include "kernels/cpu/simd/row_cursor.hpp"

namespace squeeze {
namespace {

constexpr int kFewQueries = 8;  // with more, attend_many is faster
constexpr int kFours = kFewQueries / 4;
constexpr int kFewBlock = 3 * kLanes;  // rows of a block; a multiple of every kRowsAtOnce
// The floats per row in a group's weights: three queries leave one unused.
constexpr int width_of(int64_t n_queries) { return n_queries > 2 ? 4 : static_cast<int>(n_queries); }
template <int Q>
constexpr int kRowsAtOnce = Q <= 2 ? 4 : 3;  // of a tile of dots with Q queries: the sums fill registers

struct FewScratch {
  RowBlock<kFewBlock> blocks[2];
  const char* keys[kFewBlock];  // of the block at work, the last row repeated
  const char* values[kFewBlock];
  const char* next_keys[kFewBlock];
  const char* next_values[kFewBlock];
  alignas(64) float queries[kFewQueries * kMaxHeadDim];  // [n_queries, stride], in pair order
  alignas(64) float acc[kFewQueries * kMaxHeadDim];      // likewise
  alignas(64) float weight[kFours][kFewBlock * 4];       // [row, width of the group] logits, then exp(logit - max)
  alignas(64) float max[kFours][kLanes];                 // lane i: of query i % width
  alignas(64) float sum[kFours][kLanes * 4];             // [row % kLanes, width]
  int64_t stride;                                        // dim, padded to whole vectors
  int32_t min_visible;
};

SQUEEZE_INLINE void prefetch(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }

// total[i][r] = lanes of dot(query i, row r): one accumulator each, whatever Q and R.
template <DType T, int Q, int R>
SQUEEZE_INLINE void dot_lanes(const float* queries, int64_t stride, const char* const* rows, int64_t dim,
                              Vec (&total)[Q][R]) {
  for (int i = 0; i < Q; ++i) {
    for (int r = 0; r < R; ++r) total[i][r] = zero();
  }
  const auto add_vector = [&](const Vec(&row)[R], int64_t c) {
    for (int i = 0; i < Q; ++i) {
      const Vec query = load_f32(queries + i * stride + c);
      for (int r = 0; r < R; ++r) total[i][r] = fma(query, row[r], total[i][r]);
    }
  };
  Vec row[R];
  for (int64_t c = 0; c + 2 * kLanes <= dim; c += 2 * kLanes) {
    for (int r = 0; r < R; ++r) row[r] = load_first<T>(rows[r], c);
    add_vector(row, c);
    if (Q > 2) __asm__("" ::: "memory");  // then loads the rows again: kept, they would push sums out of registers
    for (int r = 0; r < R; ++r) row[r] = load_second<T>(rows[r], c);
    add_vector(row, c + kLanes);
  }
  for_last_vectors(dim, [&](int64_t c, int64_t n) {
    for (int r = 0; r < R; ++r) row[r] = n == kLanes ? load<T>(rows[r], c) : load_some<T>(rows[r], c, n);
    add_vector(row, c);
  });
}

template <int Q, int R>
SQUEEZE_INLINE void store_dots(const Vec (&total)[Q][R], float* out) {
  if constexpr (Q == 1) {
    for (int r = 0; r < R; r += 4) {
      _mm_store_ps(out + r, sum4(total[0][r], total[0][r + 1], total[0][r + 2], total[0][r + 3]));
    }
  } else if constexpr (Q == 2) {
    for (int r = 0; r < R; r += 2) {
      _mm_store_ps(out + 2 * r, sum4(total[0][r], total[1][r], total[0][r + 1], total[1][r + 1]));
    }
  } else {
    for (int r = 0; r < R; ++r) {
      _mm_store_ps(out + 4 * r, sum4(total[0][r], total[1][r], total[2][r], Q > 3 ? total[3 % Q][r] : zero()));
    }
  }
}

// The logits, before scaling, of group g's Q queries; the first group fetches the next block's keys.
template <DType T, int Q>
inline void block_dots(const AttendArgs& a, FewScratch& s, int g) {
  constexpr int R = kRowsAtOnce<Q>;
  for (int k = 0; k < kFewBlock; k += R) {
    Vec total[Q][R];
    for (int r = 0; g == 0 && r < R; ++r) {
      for (int64_t i = 0; i < a.dim * kElementBytes<T>; i += 64) prefetch(s.next_keys[k + r] + i);
    }
    dot_lanes<T>(s.queries + 4 * g * s.stride, s.stride, s.keys + k, a.dim, total);
    store_dots(total, s.weight[g] + width_of(Q) * k);
  }
}

// Scaled logits with bias; -infinity for what a query does not see.
template <int Q>
inline void finish_logits(const AttendArgs& a, const RowBlock<kFewBlock>& rows, int64_t first, float* logits) {
  for (int i = 0; i < Q; ++i) {
    const int32_t visible = visible_rows(a, first + i);
    for (int k = 0; k < kFewBlock; ++k) {
      float& logit = logits[width_of(Q) * k + i];
      logit = rows.row[k] < visible ? a.scale * logit + rows.bias[k] : -__builtin_inff();
    }
  }
}

// Multiplies what a row has in the weights of a group by the row's scale.
template <int W>
inline void scale_few(const RowBlock<kFewBlock>& rows, const float* scales, float* weight) {
  for (int k = 0; k < rows.n; ++k) {
    for (int i = 0; i < W; ++i) weight[W * k + i] *= scales[rows.row[k]];
  }
}

inline bool all_visible(const AttendArgs& a, const FewScratch& s, const RowBlock<kFewBlock>& rows) {
  if (a.row_bias) return false;
  int32_t last = 0;
  for (int k = 0; k < kFewBlock; ++k) last = rows.row[k] > last ? rows.row[k] : last;
  return last < s.min_visible;
}

// Turns the logits of group g, times `factor`, into weights and moves its maximum and sum on.
template <int W>
inline void block_softmax(const AttendArgs& a, FewScratch& s, int g, float factor) {
  float* weight = s.weight[g];
  const Vec scale = broadcast(factor);
  const Vec old_max = load_f32(s.max[g]);
  Vec new_max = old_max;
  for (int i = 0; i < W * kFewBlock; i += kLanes) {
    const Vec logit = mul(load_f32(weight + i), scale);
    new_max = max(logit, new_max);
    store_f32(weight + i, logit);
  }
  new_max = max_of_fours(new_max);
  if (W < 4) new_max = max(new_max, swap_pairs(new_max));
  if (W < 2) new_max = max(new_max, swap_neighbours(new_max));
  const Vec shift = finite_or_zero(new_max);  // with nothing seen so far every weight must come out 0, not NaN
  Vec total[W];
  for (int w = 0; w < W; ++w) total[w] = load_f32(s.sum[g] + w * kLanes);
  if (!equal_all(new_max, old_max)) {
    const Vec shrink = exp(sub(old_max, shift));
    alignas(64) float of_query[kLanes];
    store_f32(of_query, shrink);
    for (Vec& t : total) t = mul(t, shrink);
    store_f32(s.max[g], new_max);
    for (int64_t i = 0; i < smaller(4, a.n_queries - 4 * g); ++i) {
      float* acc = s.acc + (4 * g + i) * s.stride;
      for (int64_t c = 0; c < s.stride; c += kLanes) store_f32(acc + c, mul(load_f32(acc + c), broadcast(of_query[i])));
    }
  }
  for (int i = 0; i < W * kFewBlock; i += W * kLanes) {
    for (int w = 0; w < W; ++w) {
      const Vec e = exp_of_negative(sub(load_f32(weight + i + w * kLanes), shift));
      total[w] = add(total[w], e);
      store_f32(weight + i + w * kLanes, e);
    }
  }
  for (int w = 0; w < W; ++w) store_f32(s.sum[g] + w * kLanes, total[w]);
}

// acc[i][c ..] += sum over the block of weight * value, for Q queries and P pairs of vectors.
template <DType T, int Q, int P>
SQUEEZE_INLINE void add_pairs(const FewScratch& s, const float* weight, int64_t n_rows, bool fetches, int64_t c,
                              float* acc) {
  Vec total[Q][2 * P];
  for (int i = 0; i < Q; ++i) {
    for (int v = 0; v < 2 * P; ++v) total[i][v] = load_f32(acc + i * s.stride + c + v * kLanes);
  }
  for (int64_t k = 0; k < n_rows; ++k) {
    if (fetches) {
      for (int v = 0; v < P; ++v) prefetch(s.next_values[k] + (c + 2 * v * kLanes) * kElementBytes<T>);
    }
    Vec x[2 * P];
    for (int v = 0; v < P; ++v) {
      x[2 * v] = load_first<T>(s.values[k], c + 2 * v * kLanes);
      x[2 * v + 1] = load_second<T>(s.values[k], c + 2 * v * kLanes);
    }
    for (int i = 0; i < Q; ++i) {
      const Vec w = broadcast(weight[width_of(Q) * k + i]);
      for (int v = 0; v < 2 * P; ++v) total[i][v] = fma(w, x[v], total[i][v]);
    }
  }
  for (int i = 0; i < Q; ++i) {
    for (int v = 0; v < 2 * P; ++v) store_f32(acc + i * s.stride + c + v * kLanes, total[i][v]);
  }
}

// The same for the n <= kLanes columns from c on.
template <DType T, int Q>
SQUEEZE_INLINE void add_vector(const FewScratch& s, const float* weight, int64_t n_rows, int64_t c, int64_t n,
                               float* acc) {
  Vec total[Q];
  for (int i = 0; i < Q; ++i) total[i] = load_f32(acc + i * s.stride + c);
  for (int64_t k = 0; k < n_rows; ++k) {
    const Vec x = n == kLanes ? load<T>(s.values[k], c) : load_some<T>(s.values[k], c, n);
    for (int i = 0; i < Q; ++i) total[i] = fma(broadcast(weight[width_of(Q) * k + i]), x, total[i]);
  }
  for (int i = 0; i < Q; ++i) store_f32(acc + i * s.stride + c, total[i]);
}

template <DType T, int Q>
inline void add_values(const AttendArgs& a, FewScratch& s, int g, int64_t n_rows) {
  constexpr int P = Q == 1 ? 4 : Q == 2 ? 2 : 1;
  constexpr int64_t kStep = 2 * kLanes;
  float* acc = s.acc + 4 * g * s.stride;
  int64_t c = 0;
  for (; c + P * kStep <= a.dim; c += P * kStep) add_pairs<T, Q, P>(s, s.weight[g], n_rows, g == 0, c, acc);
  for (; c + kStep <= a.dim; c += kStep) add_pairs<T, Q, 1>(s, s.weight[g], n_rows, g == 0, c, acc);
  for_last_vectors(a.dim, [&](int64_t i, int64_t n) { add_vector<T, Q>(s, s.weight[g], n_rows, i, n, acc); });
}

template <DType T>
inline void point_at_rows(const AttendArgs& a, const RowBlock<kFewBlock>& rows, const char** keys,
                          const char** values) {
  const int64_t row_bytes = a.dim * kElementBytes<T>;
  for (int k = 0; k < kFewBlock; ++k) {
    const int64_t row = rows.n == 0 ? 0 : rows.row[k < rows.n ? k : rows.n - 1];
    keys[k] = static_cast<const char*>(a.keys) + row * row_bytes;
    values[k] = static_cast<const char*>(a.values) + row * row_bytes;
  }
}

template <DType T>
inline void open_few(const AttendArgs& a, FewScratch& s) {
  s.stride = (a.dim + kLanes - 1) / kLanes * kLanes;
  s.min_visible = kNoRow;
  for (int g = 0; 4 * g < a.n_queries; ++g) {
    for (int i = 0; i < kLanes; ++i) {
      const int query = 4 * g + i % width_of(a.n_queries - 4 * g);
      s.max[g][i] = query < a.n_queries ? a.max[query] : 0.0f;
    }
    for (float& x : s.sum[g]) x = 0.0f;
    for (int i = 0; i < smaller(4, a.n_queries - 4 * g); ++i) s.sum[g][i] = a.sum[4 * g + i];
  }
  for (int64_t i = 0; i < a.n_queries; ++i) {
    to_pair_order<T>(a.queries + i * a.dim, a.dim, s.queries + i * s.stride);
    to_pair_order<T>(a.acc + i * a.dim, a.dim, s.acc + i * s.stride);
    const int32_t visible = visible_rows(a, i);
    s.min_visible = visible < s.min_visible ? visible : s.min_visible;
  }
}

template <DType T>
inline void close_few(const AttendArgs& a, const FewScratch& s) {
  for (int64_t i = 0; i < a.n_queries; ++i) {
    from_pair_order<T>(s.acc + i * s.stride, a.dim, a.acc + i * a.dim);
    const int width = width_of(a.n_queries - i / 4 * 4);
    float sum = 0;
    for (int row = 0; row < kLanes; ++row) sum += s.sum[i / 4][width * row + i % 4];
    a.sum[i] = sum;
    a.max[i] = s.max[i / 4][i % 4];
  }
}

// Group g's Q queries against the block.
template <DType T, int Q>
inline void attend_group(const AttendArgs& a, FewScratch& s, int g, const RowBlock<kFewBlock>& rows, bool whole) {
  constexpr int W = width_of(Q);
  block_dots<T, Q>(a, s, g);
  if constexpr (T == DType::i8) scale_few<W>(rows, a.key_scales, s.weight[g]);
  if (!whole) finish_logits<Q>(a, rows, 4 * g, s.weight[g]);
  block_softmax<W>(a, s, g, whole ? a.scale : 1.0f);
  if constexpr (T == DType::i8) scale_few<W>(rows, a.value_scales, s.weight[g]);
  add_values<T, Q>(a, s, g, rows.n);
}

template <DType T>
inline void attend_few(const AttendArgs& a) {
  FewScratch s;
  RowCursor cursor(a);
  RowBlock<kFewBlock>*rows = &s.blocks[0], *next = &s.blocks[1];
  cursor.take(*rows);
  if (rows->n == 0) return;
  open_few<T>(a, s);
  point_at_rows<T>(a, *rows, s.keys, s.values);
  while (rows->n > 0) {
    cursor.take(*next);
    point_at_rows<T>(a, next->n ? *next : *rows, s.next_keys, s.next_values);
    const bool whole = all_visible(a, s, *rows);
    for (int g = 0; 4 * g < a.n_queries; ++g) {
      const int64_t n = smaller(4, a.n_queries - 4 * g);
      if (n == 4) attend_group<T, 4>(a, s, g, *rows, whole);
      if (n == 3) attend_group<T, 3>(a, s, g, *rows, whole);
      if (n == 2) attend_group<T, 2>(a, s, g, *rows, whole);
      if (n == 1) attend_group<T, 1>(a, s, g, *rows, whole);
    }
    for (int k = 0; k < kFewBlock; ++k) {
      s.keys[k] = s.next_keys[k];
      s.values[k] = s.next_values[k];
    }
    RowBlock<kFewBlock>* done = rows;
    rows = next;
    next = done;
  }
  close_few<T>(a, s);
}

}  // namespace
}  // namespace squeeze
