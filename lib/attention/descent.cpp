// Logits of the centroids in play, and what becomes of the clusters.
#include "lib/attention/descent.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/core/error.hpp"

namespace squeeze {

void Descent::start(const HeadView& head, TensorView queries, float softmax_scale, const BlockShape& block) {
  head_ = &head;
  queries_ = queries;
  scale_ = softmax_scale;
  block_ = block;
  check_block();
  level_ = 0;
  n_scored_ = 0;
  dropped_.reset(block.n_rows);
  in_play_.clear();
  in_play_.add(0, static_cast<int32_t>(level().n_clusters()));
}

void Descent::reserve(const HeadView& head, int64_t n_rows) {
  if (head.levels.empty()) return;
  const int64_t n = head.levels.back().n_clusters();
  const auto n_items = static_cast<size_t>(n), n_logits = static_cast<size_t>(n * n_rows);
  in_play_.reserve(n);
  next_in_play_.reserve(n);
  sizes_.reserve(n_items);
  logits_.resize(DType::f32, {n_rows, n});
  weights_.resize(DType::f32, {n_rows, n});
  scores_.reserve(n, n_rows);
  dropped_.reserve(n, n_rows);
  dropped_items_.reserve(n_items);
  places_.reserve(n_items);
  log_sizes_.reserve(n_items);
  log_mass_.reserve(n_logits);
}

void Descent::check_block() const {
  if (head_->levels.empty()) fail("a lookup needs an index with at least one level, found none");
  const int64_t dim = head_->levels.front().centroids.size(1);
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
  weights_.resize(DType::f32, logits_.shape());
  std::copy_n(logits_.f32(), logits_.n_elements(), weights_.f32());
  const std::span<float> weights(weights_.f32(), static_cast<size_t>(weights_.n_elements()));
  scores_ = block_scores(weights, in_play_.size(), sizes_, dropped_, block_, std::move(scores_));
  return scores_;
}

void Descent::compute_logits() {
  const ScaledRows centroids = level().centroid_rows();
  logits_.resize(DType::f32, {block_.n_rows, in_play_.size()});
  float* out = logits_.f32();
  for (const RowRange& run : in_play_.runs()) {
    centroids.scores(queries_, run.begin, run.end, scale_, out, in_play_.size());
    out += run.end - run.begin;
  }
}

void Descent::drop(const std::vector<char>& keep) {
  dropped_items_.clear();
  places_.clear();
  log_sizes_.clear();
  log_mass_.clear();
  in_play_.for_each([&](int64_t i, int32_t cluster) {
    if (keep[static_cast<size_t>(i)]) return;
    dropped_items_.push_back({level_number(), cluster, level().n_rows(cluster)});
    places_.push_back(static_cast<size_t>(i));
    log_sizes_.push_back(std::log(sizes_[places_.back()]));
  });
  for (int64_t row = 0; row < block_.n_rows; ++row) {
    const float* logits = logits_.f32() + row * in_play_.size();
    for (size_t i = 0; i < places_.size(); ++i) log_mass_.push_back(logits[places_[i]] + log_sizes_[i]);
  }
  dropped_.add(dropped_items_, log_mass_);
}

void Descent::descend() {
  next_in_play_.clear();
  in_play_.for_each([&](int64_t, int32_t cluster) {
    next_in_play_.add(level().first_child[cluster], level().first_child[cluster + 1]);
  });
  std::swap(in_play_, next_in_play_);
  ++level_;
}

void Descent::descend(const std::vector<char>& keep) {
  drop(keep);
  next_in_play_.clear();
  in_play_.for_each([&](int64_t i, int32_t cluster) {
    if (keep[static_cast<size_t>(i)]) next_in_play_.add(cluster, cluster + 1);
  });
  std::swap(in_play_, next_in_play_);
  descend();
}

}  // namespace squeeze
