// Logits of the centroids in play, and what becomes of the clusters.
#include "lib/attention/descent.hpp"

#include <algorithm>
#include <cmath>

#include "lib/core/error.hpp"

namespace squeeze {

Descent::Descent(const HeadView& head, TensorView queries, float softmax_scale, const BlockShape& block)
    : head_(head), queries_(queries), scale_(softmax_scale), block_(block), dropped_(block.n_rows) {
  check_block();
  in_play_.add(0, static_cast<int32_t>(level().n_clusters()));
}

void Descent::check_block() const {
  if (head_.levels.empty()) fail("a lookup needs an index with at least one level, found none");
  const int64_t dim = head_.levels.front().centroids.size(1);
  if (queries_.dtype() != DType::f32 || queries_.shape().rank() != 2 || queries_.size(0) < 1 ||
      queries_.size(1) != dim) {
    fail("a lookup needs f32 queries [rows, {}], found {} {}", dim, name_of(queries_.dtype()), queries_.shape().str());
  }
  if (block_.group.size < 1 || block_.n_rows != queries_.size(0) || block_.n_rows % block_.group.size != 0) {
    fail("a block of {} query rows does not consist of groups of {} heads", queries_.size(0), block_.group.size);
  }
  if (!std::isfinite(scale_)) fail("the softmax scale must be finite, found {}", scale_);
  if (!all_finite({queries_.f32(), static_cast<size_t>(queries_.n_elements())})) {
    fail("queries of a block are not finite (NaN or infinity)");
  }
}

int64_t Descent::n_keys_in_play() const {
  int64_t n = 0;
  for (const RowRange& run : in_play_.runs()) {
    n += level().first_row[static_cast<size_t>(run.end)] - level().first_row[static_cast<size_t>(run.begin)];
  }
  return n;
}

const BlockScores& Descent::score() {
  n_scored_ += in_play_.size();
  sizes_.clear();
  in_play_.for_each([&](int64_t, int32_t cluster) { sizes_.push_back(static_cast<float>(level().n_rows(cluster))); });
  compute_logits();
  std::vector<float> logits(logits_.f32(), logits_.f32() + logits_.n_elements());
  scores_ = block_scores(logits, in_play_.size(), sizes_, dropped_, block_);
  return scores_;
}

void Descent::compute_logits() {
  const ScaledRows centroids = level().centroid_rows();
  logits_ = Tensor(DType::f32, {block_.n_rows, in_play_.size()});
  float* out = logits_.f32();
  for (const RowRange& run : in_play_.runs()) {
    centroids.scores(queries_, run.begin, run.end, scale_, out, in_play_.size());
    out += run.end - run.begin;
  }
}

void Descent::drop(const std::vector<char>& keep) {
  std::vector<DroppedCluster> items;
  std::vector<size_t> places;
  std::vector<float> log_sizes;
  in_play_.for_each([&](int64_t i, int32_t cluster) {
    if (keep[static_cast<size_t>(i)]) return;
    items.push_back({level_number(), cluster, level().n_rows(cluster)});
    places.push_back(static_cast<size_t>(i));
    log_sizes.push_back(std::log(sizes_[places.back()]));
  });
  std::vector<float> log_mass;
  log_mass.reserve(items.size() * static_cast<size_t>(block_.n_rows));
  for (int64_t row = 0; row < block_.n_rows; ++row) {
    const float* logits = logits_.f32() + row * in_play_.size();
    for (size_t i = 0; i < places.size(); ++i) log_mass.push_back(logits[places[i]] + log_sizes[i]);
  }
  dropped_.add(items, log_mass);
}

void Descent::descend() {
  ItemRuns children;
  in_play_.for_each(
      [&](int64_t, int32_t cluster) { children.add(level().first_child[cluster], level().first_child[cluster + 1]); });
  in_play_ = std::move(children);
  ++level_;
}

void Descent::descend(const std::vector<char>& keep) {
  drop(keep);
  ItemRuns kept;
  in_play_.for_each([&](int64_t i, int32_t cluster) {
    if (keep[static_cast<size_t>(i)]) kept.add(cluster, cluster + 1);
  });
  in_play_ = std::move(kept);
  descend();
}

}  // namespace squeeze
