// Weighted sums of value means, a tile of them at a time.
#include "lib/attention/rest_part.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTileRows = 64;  // value means that are widened at once

std::vector<float> centroid_logits(const HeadView& head, const Selection& selection, TensorView queries,
                                   float softmax_scale) {
  const int64_t dim = queries.size(1);
  const int64_t n = std::ssize(selection.dropped);
  std::vector<float> logits(static_cast<size_t>(queries.size(0) * n));
  std::vector<float> centroid(static_cast<size_t>(dim));
  for (int64_t i = 0; i < n; ++i) {
    const DroppedCluster& dropped = selection.dropped[static_cast<size_t>(i)];
    const LevelView& level = head.levels.at(static_cast<size_t>(dropped.level));
    level.centroid_rows().widen(dropped.cluster, dropped.cluster + 1, centroid.data());
    kernels().scores(
        {queries.f32(), queries.size(0), centroid.data(), DType::f32, 1, dim, softmax_scale, logits.data() + i, n});
    for (int64_t q = 0; q < queries.size(0); ++q) {
      logits[static_cast<size_t>(q * n + i)] += std::log(static_cast<float>(dropped.n_keys));
    }
  }
  return logits;
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

RestPart rest_part(const HeadView& head, const Selection& selection, TensorView queries, float softmax_scale) {
  RestPart part;
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
  part.logits =
      selection.rest_logits.empty() ? centroid_logits(head, selection, queries, softmax_scale) : selection.rest_logits;
  if (std::ssize(part.logits) != queries.size(0) * part.n_items) {
    fail("attention: {} dropped clusters and {} query rows, but {} logits", part.n_items, queries.size(0),
         part.logits.size());
  }
  return part;
}

void attend_rest(const RestPart& part, AttentionState& state) {
  if (part.n_items == 0) return;
  const int64_t dim = state.acc.size(1);
  AttentionState rest(state.n_rows(), dim);
  std::vector<float> weights = part.logits;
  for (int64_t row = 0; row < state.n_rows(); ++row)
    weigh(weights.data() + row * part.n_items, part.n_items, rest, row);
  std::vector<float> tile(static_cast<size_t>(kTileRows * dim));
  const float* column = weights.data();
  for (const RestPart::Run& run : part.runs) {
    for (int64_t begin = run.clusters.begin; begin < run.clusters.end; begin += kTileRows) {
      const int64_t end = std::min<int64_t>(run.clusters.end, begin + kTileRows);
      run.value_means.widen(begin, end, tile.data());
      kernels().weighted_sum({column, part.n_items, state.n_rows(), tile.data(), end - begin, dim, rest.acc.f32()});
      column += end - begin;
    }
  }
  state.merge(rest);
}

}  // namespace squeeze
