// Panels: up to 2 x kLanes rows held transposed, one row per vector lane, and their product with a few other rows.
//
// With one row per lane, everything that softmax or argmax does per row is an elementwise operation, no lane ever meets
// another, and a row's result cannot depend on its neighbours. A product tile keeps kTileRows x N accumulators in
// registers; each step loads N vectors and broadcasts kTileRows elements.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

constexpr int kPanelWidth = 2 * kLanes;

struct TileRows {
  const float* row[kTileRows];
};

// Rows j .. j + kTileRows - 1 of a matrix; rows from n_rows on repeat the last one.
SQUEEZE_INLINE TileRows tile_rows(const float* matrix, int64_t stride, int64_t j, int64_t n_rows) {
  TileRows rows;
  for (int r = 0; r < kTileRows; ++r) rows.row[r] = matrix + smaller(j + r, n_rows - 1) * stride;
  return rows;
}

// panel[c * kPanelWidth + i] = rows[i * dim + c]; lanes from n_rows on are 0.
inline void fill_panel(const float* rows, int64_t n_rows, int64_t dim, float* panel) {
  for (int64_t c = 0; c < dim; ++c) {
    float* lanes = panel + c * kPanelWidth;
    for (int64_t i = 0; i < kPanelWidth; ++i) lanes[i] = i < n_rows ? rows[i * dim + c] : 0.0f;
  }
}

// The inverse of fill_panel.
inline void drain_panel(const float* panel, int64_t n_rows, int64_t dim, float* rows) {
  for (int64_t i = 0; i < n_rows; ++i) {
    for (int64_t c = 0; c < dim; ++c) rows[i * dim + c] = panel[c * kPanelWidth + i];
  }
}

// total[r][v] = sum over c of rows[r][c] * panel[c], the v-th vector of lanes.
template <int N>
SQUEEZE_INLINE void panel_product(const TileRows& rows, const float* panel, int64_t dim, Vec (&total)[kTileRows][N]) {
  for (int r = 0; r < kTileRows; ++r) {
    for (int v = 0; v < N; ++v) total[r][v] = zero();
  }
  for (int64_t c = 0; c < dim; ++c) {
    Vec lanes[N];
    for (int v = 0; v < N; ++v) lanes[v] = load_f32(panel + c * kPanelWidth + v * kLanes);
    for (int r = 0; r < kTileRows; ++r) {
      const Vec x = broadcast(rows.row[r][c]);
      for (int v = 0; v < N; ++v) total[r][v] = fma(x, lanes[v], total[r][v]);
    }
  }
}

}  // namespace
}  // namespace squeeze
