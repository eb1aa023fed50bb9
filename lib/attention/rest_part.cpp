// Weighted sums of value means, a tile of them at a time.
#include "lib/attention/rest_part.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/scratch.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTileRows = 64;  // value means that are widened at once

void centroid_logits(const HeadView& head, const Selection& selection, TensorView queries, float softmax_scale,
                     std::vector<float>& logits) {
  const int64_t dim = queries.size(1);
  const int64_t n = std::ssize(selection.dropped);
  if (dim > kMaxHeadDim) fail("attention: a head dimension of at most {} is supported, found {}", kMaxHeadDim, dim);
  resize_with_room(logits, static_cast<size_t>(queries.size(0) * n));
  float centroid[kMaxHeadDim];
  for (int64_t i = 0; i < n; ++i) {
    const DroppedCluster& dropped = selection.dropped[static_cast<size_t>(i)];
    const LevelView& level = head.levels.at(static_cast<size_t>(dropped.level));
    level.centroid_rows().widen(dropped.cluster, dropped.cluster + 1, centroid);
    kernels().scores(
        {queries.f32(), queries.size(0), centroid, DType::f32, 1, dim, softmax_scale, logits.data() + i, n});
    for (int64_t q = 0; q < queries.size(0); ++q) {
      logits[static_cast<size_t>(q * n + i)] += std::log(static_cast<float>(dropped.n_keys));
    }
  }
}

// One row's logits to weights; the row's max and sum go to the state.
void weigh(float* logits, int64_t n, AttentionState& state, int64_t row) {
  const float max = *std::max_element(logits, logits + n);
  if (max == -std::numeric_limits<float>::infinity()) {
    std::fill(logits, logits + n, 0.0f);
    return;
  }
  state.max[static_cast<size_t>(row)] = max;
  state.sum[static_cast<size_t>(row)] = kernels().exp_sum(logits, n, max, nullptr);
}

}  // namespace

void RestPart::reserve(const HeadView& head, int64_t n_rows) {
  if (head.levels.empty()) return;
  const auto n_leaves = static_cast<size_t>(head.levels.back().n_clusters());
  runs.reserve(n_leaves);
  logits.reserve(n_leaves * static_cast<size_t>(n_rows));
}

void RestScratch::reserve(const HeadView& head, int64_t n_rows) {
  if (head.levels.empty()) return;
  state.resize(n_rows, head.keys.size(1));
  weights.reserve(static_cast<size_t>(head.levels.back().n_clusters() * n_rows));
}

RestPart rest_part(const HeadView& head, const Selection& selection, TensorView queries, float softmax_scale,
                   RestPart reused) {
  RestPart part = std::move(reused);
  part.runs.clear();
  part.logits.clear();
  part.n_items = std::ssize(selection.dropped);
  int32_t level = -1;
  for (const DroppedCluster& dropped : selection.dropped) {
    if (dropped.level == level && part.runs.back().clusters.end == dropped.cluster) {
      ++part.runs.back().clusters.end;
      continue;
    }
    level = dropped.level;
    part.runs.push_back(
        {head.levels.at(static_cast<size_t>(level)).value_rows(), {dropped.cluster, dropped.cluster + 1}});
  }
  if (selection.rest_logits.empty()) {
    centroid_logits(head, selection, queries, softmax_scale, part.logits);
  } else {
    append_with_room(part.logits, selection.rest_logits);
  }
  if (std::ssize(part.logits) != queries.size(0) * part.n_items) {
    fail("attention: {} dropped clusters and {} query rows, but {} logits", part.n_items, queries.size(0),
         part.logits.size());
  }
  return part;
}

void attend_rest(const RestPart& part, AttentionState& state, RestScratch& scratch) {
  if (part.n_items == 0) return;
  const int64_t dim = state.acc.size(1);
  AttentionState& rest = scratch.state;
  rest.reset(state.n_rows(), dim);
  std::vector<float>& weights = scratch.weights;
  weights.clear();
  append_with_room(weights, part.logits);
  for (int64_t row = 0; row < state.n_rows(); ++row)
    weigh(weights.data() + row * part.n_items, part.n_items, rest, row);
  float tile[kTileRows * kMaxHeadDim];
  const float* column = weights.data();
  for (const RestPart::Run& run : part.runs) {
    for (int64_t begin = run.clusters.begin; begin < run.clusters.end; begin += kTileRows) {
      const int64_t end = std::min<int64_t>(run.clusters.end, begin + kTileRows);
      run.value_means.widen(begin, end, tile);
      kernels().weighted_sum({column, part.n_items, state.n_rows(), tile, end - begin, dim, rest.acc.f32()});
      column += end - begin;
    }
  }
  state.merge(rest);
}

}  // namespace squeeze
