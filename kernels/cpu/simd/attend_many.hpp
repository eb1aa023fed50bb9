// attend for many query rows (prefill): two register-blocked products per tile of rows, softmax between them.
//
// Query rows are the lanes of panels, transposed once per call together with their accumulators. Each tile of keys and
// values is converted to float32 once per kManyPanels panels; then per panel: logits by panel_product, online softmax
// (elementwise over lanes), and acc[c] = acc[c] * shrink + sum over rows of value[c] * weight. Rows behind the causal
// limit of a panel are not computed. A query's result does not depend on the other queries in its panel: hidden rows
// add exact zeros. All sums are float32, in row order.
#pragma once

#include "kernels/cpu/simd/attend_few.hpp"
#include "kernels/cpu/simd/elementwise.hpp"
#include "kernels/cpu/simd/panel.hpp"

namespace squeeze {
namespace {

constexpr int kManyRows = 96;  // rows of a tile; a multiple of kTileRows of every instruction set
constexpr int kManyPanels = 128 / kPanelWidth;
constexpr int kRowPad = 16;  // keeps the rows of a tile apart in the cache's sets

struct QueryPanel {
  float* query;  // [dim, kPanelWidth]
  float* acc;    // [dim rounded up to kTileRows, kPanelWidth]
  int64_t n;     // queries; the other lanes see nothing
  int32_t max_visible;
  int32_t min_visible;
  alignas(64) int32_t visible[kPanelWidth];
  alignas(64) float max[kPanelWidth];
  alignas(64) float sum[kPanelWidth];
};

struct ManyScratch {
  alignas(64) float query[kManyPanels * kPanelWidth * kMaxHeadDim];
  alignas(64) float acc[kManyPanels * kPanelWidth * (kMaxHeadDim + kTileRows)];
  alignas(64) float keys[kManyRows * (kMaxHeadDim + kRowPad)];
  alignas(64) float values[kManyRows * (kMaxHeadDim + kRowPad)];
  alignas(64) float weight[kManyRows * kPanelWidth];  // logits, then exp(logit - max)
  RowBlock<kManyRows> rows;
  QueryPanel panels[kManyPanels];
  int64_t stride;  // of keys and values
};

inline void open_panel(const AttendArgs& a, int64_t first, int64_t n, QueryPanel& panel) {
  panel.n = n;
  fill_panel(a.queries + first * a.dim, n, a.dim, panel.query);
  fill_panel(a.acc + first * a.dim, n, a.dim, panel.acc);
  for (int64_t i = a.dim * kPanelWidth; i < (a.dim + kTileRows) * kPanelWidth; ++i) panel.acc[i] = 0.0f;
  panel.max_visible = 0;
  panel.min_visible = kNoRow;
  for (int64_t i = 0; i < kPanelWidth; ++i) {
    panel.visible[i] = i < n ? visible_rows(a, first + i) : 0;
    panel.max[i] = i < n ? a.max[first + i] : -__builtin_inff();
    panel.sum[i] = i < n ? a.sum[first + i] : 0.0f;
    if (i >= n) continue;
    if (panel.visible[i] > panel.max_visible) panel.max_visible = panel.visible[i];
    if (panel.visible[i] < panel.min_visible) panel.min_visible = panel.visible[i];
  }
}

inline void close_panel(const AttendArgs& a, int64_t first, const QueryPanel& panel) {
  drain_panel(panel.acc, panel.n, a.dim, a.acc + first * a.dim);
  for (int64_t i = 0; i < panel.n; ++i) {
    a.max[first + i] = panel.max[i];
    a.sum[first + i] = panel.sum[i];
  }
}

// The rows of the tile as float32, each followed by zeros up to a multiple of kTileRows columns. scales: of i8 rows.
template <DType T>
inline void load_tile(const AttendArgs& a, const void* matrix, const float* scales, const ManyScratch& s, float* tile) {
  for (int k = 0; k < s.rows.n; ++k) {
    float* out = tile + k * s.stride;
    const char* row = row_at<T>(matrix, a.dim, s.rows.row[k]);
    if constexpr (T == DType::i8) {
      widen_i8(reinterpret_cast<const int8_t*>(row), scales + s.rows.row[k], 1, a.dim, out);
    } else {
      widen<T>(row, a.dim, out);
    }
    for (int i = 0; i < kTileRows; ++i) out[a.dim + i] = 0.0f;
  }
}

// weight[k][lane] = scale * dot(query, key k) + bias[k] for the first n rows.
template <int N>
inline void panel_logits(const AttendArgs& a, ManyScratch& s, const QueryPanel& panel, int n) {
  const Vec scale = broadcast(a.scale);
  for (int k = 0; k < n; k += kTileRows) {
    Vec total[kTileRows][N];
    panel_product<N>(tile_rows(s.keys, s.stride, k, n), panel.query, a.dim, total);
    for (int r = 0; r < kTileRows; ++r) {
      const Vec bias = broadcast(s.rows.bias[k + r]);
      float* out = s.weight + (k + r) * kPanelWidth;
      for (int v = 0; v < N; ++v) store_f32(out + v * kLanes, fma(total[r][v], scale, bias));
    }
  }
}

// Hides from every lane of vector v the rows that its query does not see.
inline void hide_rows(ManyScratch& s, const QueryPanel& panel, int v, int n) {
  const IntVec visible = load_int(panel.visible + v * kLanes);
  for (int k = 0; k < n; ++k) {
    float* logit = s.weight + k * kPanelWidth + v * kLanes;
    store_f32(logit, keep_if_less(load_f32(logit), broadcast_int(s.rows.row[k]), visible));
  }
}

// Turns the logits of vector v into weights, moves maximum and sum on, and returns the factor for earlier sums.
inline Vec panel_softmax(ManyScratch& s, QueryPanel& panel, int v, int n) {
  float* weight = s.weight + v * kLanes;
  const Vec old_max = load_f32(panel.max + v * kLanes);
  Vec new_max = old_max;
  for (int k = 0; k < n; ++k) new_max = max(load_f32(weight + k * kPanelWidth), new_max);
  // Where nothing was seen so far every weight must come out 0, not NaN.
  const Vec shift = finite_or_zero(new_max);
  Vec total = zero();
  for (int k = 0; k < n; ++k) {
    const Vec e = exp_of_negative(sub(load_f32(weight + k * kPanelWidth), shift));
    store_f32(weight + k * kPanelWidth, e);
    total = add(total, e);
  }
  const Vec shrink = exp(sub(old_max, shift));
  store_f32(panel.sum + v * kLanes, fma(load_f32(panel.sum + v * kLanes), shrink, total));
  store_f32(panel.max + v * kLanes, new_max);
  return shrink;
}

template <int N>
inline void panel_values(const AttendArgs& a, const ManyScratch& s, QueryPanel& panel, const Vec (&shrink)[N], int n) {
  for (int64_t c = 0; c < a.dim; c += kTileRows) {
    Vec total[kTileRows][N];
    for (int r = 0; r < kTileRows; ++r) {
      const float* acc = panel.acc + (c + r) * kPanelWidth;
      for (int v = 0; v < N; ++v) total[r][v] = mul(load_f32(acc + v * kLanes), shrink[v]);
    }
    for (int k = 0; k < n; ++k) {
      const float* value = s.values + k * s.stride + c;
      Vec weight[N];
      for (int v = 0; v < N; ++v) weight[v] = load_f32(s.weight + k * kPanelWidth + v * kLanes);
      for (int r = 0; r < kTileRows; ++r) {
        const Vec x = broadcast(value[r]);
        for (int v = 0; v < N; ++v) total[r][v] = fma(x, weight[v], total[r][v]);
      }
    }
    for (int r = 0; r < kTileRows; ++r) {
      float* acc = panel.acc + (c + r) * kPanelWidth;
      for (int v = 0; v < N; ++v) store_f32(acc + v * kLanes, total[r][v]);
    }
  }
}

// How many rows of the tile, from its start, hold all that some query of the panel sees.
inline int rows_in_sight(const ManyScratch& s, const QueryPanel& panel) {
  int n = s.rows.n;
  while (n > 0 && s.rows.row[n - 1] >= panel.max_visible) --n;
  return n;
}

template <int N>
inline void attend_panel(const AttendArgs& a, ManyScratch& s, QueryPanel& panel) {
  const int n = rows_in_sight(s, panel);
  if (n == 0) return;
  panel_logits<N>(a, s, panel, n);
  bool hidden = panel.n < N * kLanes;
  for (int k = 0; k < n && !hidden; ++k) hidden = s.rows.row[k] >= panel.min_visible;
  Vec shrink[N];
  for (int v = 0; v < N; ++v) {
    if (hidden) hide_rows(s, panel, v, n);
    shrink[v] = panel_softmax(s, panel, v, n);
  }
  panel_values<N>(a, s, panel, shrink, n);
}

template <DType T>
inline void attend_block(const AttendArgs& a, int64_t begin, int64_t end, ManyScratch& s) {
  const int64_t n_panels = (end - begin + kPanelWidth - 1) / kPanelWidth;
  for (int64_t p = 0; p < n_panels; ++p) {
    const int64_t first = begin + p * kPanelWidth;
    s.panels[p].query = s.query + p * kPanelWidth * a.dim;
    s.panels[p].acc = s.acc + p * kPanelWidth * (a.dim + kTileRows);
    open_panel(a, first, smaller(kPanelWidth, end - first), s.panels[p]);
  }
  RowCursor cursor(a);
  for (cursor.take(s.rows); s.rows.n > 0; cursor.take(s.rows)) {
    load_tile<T>(a, a.keys, a.key_scales, s, s.keys);
    load_tile<T>(a, a.values, a.value_scales, s, s.values);
    for (int64_t p = 0; p < n_panels; ++p) {
      QueryPanel& panel = s.panels[p];
      if (panel.n <= kLanes) {
        attend_panel<1>(a, s, panel);
      } else {
        attend_panel<2>(a, s, panel);
      }
    }
  }
  for (int64_t p = 0; p < n_panels; ++p) close_panel(a, begin + p * kPanelWidth, s.panels[p]);
}

// Not inlined: the scratch, up to 1 MB, must not become part of the frame of attend_few.
template <DType T>
__attribute__((noinline)) void attend_many(const AttendArgs& a) {
  ManyScratch s;
  s.stride = (a.dim + kRowPad - 1) / kRowPad * kRowPad + kRowPad;
  const int64_t block = kManyPanels * kPanelWidth;
  for (int64_t i = 0; i < a.n_queries; i += block) attend_block<T>(a, i, smaller(a.n_queries, i + block), s);
}

inline void attend(const AttendArgs& a) {
  const auto run = [&]<DType T>() {
    if (a.n_queries <= kFewQueries) {
      attend_few<T>(a);
    } else {
      attend_many<T>(a);
    }
  };
  if (a.dtype == DType::i8) return run.template operator()<DType::i8>();
  with_dtype(a.dtype, run);
}

}  // namespace
}  // namespace squeeze
