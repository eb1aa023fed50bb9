// Dot products of f32 rows with stored rows along the contiguous dimension: scores and matvec.
//
// A tile is kDotRows x rows against four stored rows, so that each stored row is read once per kDotRows of x and
// converted in registers. Every dot product has one accumulator and one order of additions, whatever the tile it falls
// into: a result depends on its own two rows only.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

struct FourRows {
  const char* row[4];
};

// Rows j .. j + 3 of a matrix; rows from n_rows on repeat the last one.
template <DType T>
SQUEEZE_INLINE FourRows four_rows(const void* matrix, int64_t dim, int64_t j, int64_t n_rows) {
  FourRows rows;
  for (int r = 0; r < 4; ++r) {
    rows.row[r] = static_cast<const char*>(matrix) + smaller(j + r, n_rows - 1) * dim * kElementBytes<T>;
  }
  return rows;
}

// dots[i] = dot(x[i], the four rows)
template <DType T, int N>
SQUEEZE_INLINE void dot_tile(const float* x, int64_t x_stride, const FourRows& rows, int64_t dim, __m128* dots) {
  Vec total[N][4];
  for (int i = 0; i < N; ++i) {
    for (int r = 0; r < 4; ++r) total[i][r] = zero();
  }
  int64_t c = 0;
  for (; c + kLanes <= dim; c += kLanes) {
    Vec row[4];
    for (int r = 0; r < 4; ++r) row[r] = load<T>(rows.row[r], c);
    for (int i = 0; i < N; ++i) {
      const Vec v = load_f32(x + i * x_stride + c);
      for (int r = 0; r < 4; ++r) total[i][r] = fma(v, row[r], total[i][r]);
    }
  }
  if (c < dim) {
    Vec row[4];
    for (int r = 0; r < 4; ++r) row[r] = load_some<T>(rows.row[r], c, dim - c);
    for (int i = 0; i < N; ++i) {
      const Vec v = load_f32_some(x + i * x_stride + c, dim - c);
      for (int r = 0; r < 4; ++r) total[i][r] = fma(v, row[r], total[i][r]);
    }
  }
  for (int i = 0; i < N; ++i) dots[i] = sum4(total[i][0], total[i][1], total[i][2], total[i][3]);
}

// Calls emit(i, dots) for every x row from i on with its four dot products: N rows at a time, then the rest at once.
template <DType T, int N = kDotRows, class Emit>
SQUEEZE_INLINE void dot_rows(const float* x, int64_t i, int64_t n_x, const FourRows& rows, int64_t dim,
                             const Emit& emit) {
  for (; i + N <= n_x; i += N) {
    __m128 dots[N];
    dot_tile<T, N>(x + i * dim, dim, rows, dim, dots);
    for (int t = 0; t < N; ++t) emit(i + t, dots[t]);
  }
  if constexpr (N > 1) {
    if (i < n_x) dot_rows<T, N - 1>(x, i, n_x, rows, dim, emit);
  }
}

SQUEEZE_INLINE void store_up_to_four(float* out, __m128 x, int64_t n) {
  if (n >= 4) return _mm_storeu_ps(out, x);
  float whole[4];
  _mm_storeu_ps(whole, x);
  for (int64_t i = 0; i < n; ++i) out[i] = whole[i];
}

template <DType T>
inline void scores_of(const ScoresArgs& a) {
  const __m128 scale = _mm_set1_ps(a.scale);
  for (int64_t j = 0; j < a.n_rows; j += 4) {
    const FourRows rows = four_rows<T>(a.rows, a.dim, j, a.n_rows);
    dot_rows<T>(a.queries, 0, a.n_queries, rows, a.dim, [&](int64_t i, __m128 dots) {
      store_up_to_four(a.out + i * a.out_stride + j, _mm_mul_ps(dots, scale), a.n_rows - j);
    });
  }
}

inline void scores(const ScoresArgs& a) {
  with_dtype(a.dtype, [&]<DType T>() { scores_of<T>(a); });
}

template <DType T>
inline void matvec_of(const MatvecArgs& a) {
  for (int64_t j = 0; j < a.out_features; j += 4) {
    const FourRows rows = four_rows<T>(a.weights, a.in_features, j, a.out_features);
    float bias[4] = {};
    for (int64_t r = 0; a.bias && r < smaller(4, a.out_features - j); ++r) bias[r] = a.bias[j + r];
    const __m128 offset = _mm_loadu_ps(bias);
    dot_rows<T>(a.x, 0, a.n_rows, rows, a.in_features, [&](int64_t i, __m128 dots) {
      store_up_to_four(a.out + i * a.out_stride + j, _mm_add_ps(dots, offset), a.out_features - j);
    });
  }
}

inline void matvec(const MatvecArgs& a) {
  with_dtype(a.dtype, [&]<DType T>() { matvec_of<T>(a); });
}

}  // namespace
}  // namespace squeeze
