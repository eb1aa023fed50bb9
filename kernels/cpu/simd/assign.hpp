// assign: the best centroid of every point, without storing a score.
//
// Points are the lanes of panels, centroids the broadcast rows. The running argmax of a point is one lane of a score
// vector and of an index vector; centroids come in ascending order and only a greater score wins, so the lowest index
// keeps a tie. Each score is one chain of fused multiply-adds over dim, minus the offset.
#pragma once

#include "kernels/cpu/simd/panel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kAssignPanels = 4;  // panels that share a pass over the centroids

struct BestCentroids {
  alignas(64) float score[kPanelWidth];
  alignas(64) int32_t index[kPanelWidth];
};

// Updates `best` with the centroids [j, j + kTileRows) that exist.
template <int N>
inline void assign_tile(const AssignArgs& a, int64_t j, const float* panel, BestCentroids& best) {
  Vec total[kTileRows][N];
  panel_product<N>(tile_rows(a.centroids, a.dim, j, a.n_centroids), panel, a.dim, total);
  Vec score[N];
  IntVec index[N];
  for (int v = 0; v < N; ++v) {
    score[v] = load_f32(best.score + v * kLanes);
    index[v] = load_int(best.index + v * kLanes);
  }
  for (int r = 0; r < kTileRows; ++r) {
    if (j + r >= a.n_centroids) break;
    const Vec offset = broadcast(a.offsets ? a.offsets[j + r] : 0.0f);
    const IntVec centroid = broadcast_int(static_cast<int32_t>(j + r));
    for (int v = 0; v < N; ++v) take_if_greater(sub(total[r][v], offset), centroid, score[v], index[v]);
  }
  for (int v = 0; v < N; ++v) {
    store_f32(best.score + v * kLanes, score[v]);
    store_int(best.index + v * kLanes, index[v]);
  }
}

// Points [begin, end), at most kAssignPanels panels.
inline void assign_block(const AssignArgs& a, int64_t begin, int64_t end, float* panels) {
  BestCentroids best[kAssignPanels];
  const int64_t n_panels = (end - begin + kPanelWidth - 1) / kPanelWidth;
  const int64_t panel_size = a.dim * kPanelWidth;
  for (int64_t p = 0; p < n_panels; ++p) {
    const int64_t first = begin + p * kPanelWidth;
    fill_panel(a.points + first * a.dim, smaller(kPanelWidth, end - first), a.dim, panels + p * panel_size);
    for (int i = 0; i < kPanelWidth; ++i) {
      best[p].score[i] = -__builtin_inff();
      best[p].index[i] = -1;
    }
  }
  for (int64_t j = 0; j < a.n_centroids; j += kTileRows) {
    for (int64_t p = 0; p < n_panels; ++p) {
      const bool one_vector = end - (begin + p * kPanelWidth) <= kLanes;
      if (one_vector) {
        assign_tile<1>(a, j, panels + p * panel_size, best[p]);
      } else {
        assign_tile<2>(a, j, panels + p * panel_size, best[p]);
      }
    }
  }
  for (int64_t i = 0; i < end - begin; ++i) {
    a.nearest[begin + i] = best[i / kPanelWidth].index[i % kPanelWidth];
    a.best[begin + i] = best[i / kPanelWidth].score[i % kPanelWidth];
  }
}

inline void assign(const AssignArgs& a) {
  alignas(64) float panels[kAssignPanels * kPanelWidth * kMaxHeadDim];
  const int64_t block = kAssignPanels * kPanelWidth;
  for (int64_t i = 0; i < a.n_points; i += block) assign_block(a, i, smaller(a.n_points, i + block), panels);
}

}  // namespace
}  // namespace squeeze
