// A leaf's own logit, plus what the kernel reads from the sketches of its keys; dropped mass a leaf at a time.
#include "lib/attention/key_stage.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/attention/keeper.hpp"
#include "lib/core/scratch.hpp"

namespace squeeze {
namespace {

// The variance of an estimate of q·k is about |q|^2 times the sketch's squared scale times this: the squared error of
// the rounded residual, per dimension, for a Gaussian one (1 - 2/pi for one bit; 0.1175 of 0.884 for two).
double noise_variance(int bits) { return bits == 1 ? 1 - 0.6366 : 0.104; }

// The share of the noise that is taken back. A key that was not kept is one whose noise was not large: the whole
// correction is too much (fitted on the tuning documents).
constexpr double kNoiseShare = 0.75;

}  // namespace

void KeyStage::start(Descent& descent, const std::vector<char>& keep) {
  descent_ = &descent;
  leaves_.clear();
  rows_.clear();
  const LevelView& level = descent.level();
  descent.in_play().for_each([&](int64_t i, int32_t leaf) {
    const auto position = static_cast<size_t>(i);
    if (!keep[position]) return;
    leaves_.push_back({leaf, position, rows_.size(), level.n_rows(leaf)});
    rows_.add(level.first_row[static_cast<size_t>(leaf)], level.first_row[static_cast<size_t>(leaf) + 1]);
  });
  descent.drop(keep);
}

void KeyStage::reserve(const HeadView& head, int64_t n_rows) {
  if (head.sketches.bits == 0) return;
  const int64_t n_leaves = head.levels.back().n_clusters(), n_keys = head.n_clustered();
  const auto leaves = static_cast<size_t>(n_leaves), keys = static_cast<size_t>(n_keys);
  leaves_.reserve(leaves);
  rows_.reserve(n_leaves);
  weights_.resize(DType::f32, {n_rows, n_keys});
  sums_.ends.reserve(leaves);
  sums_.sums.reserve(static_cast<size_t>(n_leaves * n_rows));
  scores_.reserve(n_keys, n_rows);
  dropped_items_.reserve(leaves);
  losses_.reserve(leaves);
  kept_.reserve(keys);
  leaf_scales_.reserve(keys);
  log_mass_.reserve(static_cast<size_t>(n_leaves * n_rows));
}

const BlockScores& KeyStage::score() {
  const int64_t n_queries = descent_->block().n_rows;
  weights_.resize(DType::f32, {n_queries, rows_.size()});
  for (int64_t q = 0; q < n_queries; ++q) {
    const float* leaf_logits = descent_->logits().f32() + q * descent_->in_play().size();
    float* out = weights_.f32() + q * rows_.size();
    for (const Leaf& leaf : leaves_) out = std::fill_n(out, leaf.n_rows, leaf_logits[leaf.position]);
  }
  add_sketches();
  sums_.ends.clear();
  sums_.max.clear();
  sums_.sums.clear();
  for (const Leaf& leaf : leaves_) sums_.ends.push_back(leaf.first + leaf.n_rows);
  const std::span<float> logits(weights_.f32(), static_cast<size_t>(weights_.n_elements()));
  scores_ = block_scores(logits, rows_.size(), {}, descent_->dropped(), descent_->block(), &sums_, std::move(scores_));
  return scores_;
}

void KeyStage::add_sketches() {
  const SketchView& sketches = descent_->head().sketches;
  const int64_t dim = descent_->queries().size(1);
  tables_ = sketch_tables(descent_->queries(), sketches, descent_->scale(), std::move(tables_));
  float* out = weights_.f32();
  for (const RowRange& run : rows_.runs()) {
    const int64_t key = run.begin - descent_->head().n_sinks;
    kernels().sketch_scores({.tables = tables_.entries.data(),
                             .n_queries = descent_->block().n_rows,
                             .query_scales = tables_.scales.data(),
                             .codes = sketches.codes + key * sketch_code_bytes(sketches.bits, dim),
                             .scales = sketches.scales + key,
                             .n_rows = run.end - run.begin,
                             .dim = dim,
                             .bits = sketches.bits,
                             .out = out,
                             .out_stride = rows_.size()});
    out += run.end - run.begin;
  }
}

// The mean of the squared scales of a leaf's sketches.
float KeyStage::squared_scale(const Leaf& leaf) {
  const int64_t key = descent_->level().first_row[static_cast<size_t>(leaf.leaf)] - descent_->head().n_sinks;
  resize_with_room(leaf_scales_, static_cast<size_t>(leaf.n_rows));
  kernels().to_f32(descent_->head().sketches.scales + key, DType::f16, leaf.n_rows, leaf_scales_.data());
  float mean = 0;
  const float share = 1.0f / static_cast<float>(leaf.n_rows);
  kernels().scores({leaf_scales_.data(), 1, leaf_scales_.data(), DType::f32, 1, leaf.n_rows, share, &mean, 1});
  return mean;
}

void KeyStage::drop(const std::vector<char>& keep_key) {
  dropped_items_.clear();
  losses_.clear();
  kept_.clear();
  log_mass_.clear();
  for (size_t i = 0; i < leaves_.size(); ++i) {
    const Leaf& leaf = leaves_[i];
    const size_t first_kept = kept_.size();
    for_each_one(keep_key, leaf.first, leaf.first + leaf.n_rows, [&](int64_t key) { kept_.push_back(int32_t(key)); });
    const auto n_dropped = static_cast<int32_t>(leaf.n_rows - std::ssize(kept_) + static_cast<int64_t>(first_kept));
    if (n_dropped == 0) continue;
    dropped_items_.push_back({descent_->level_number(), leaf.leaf, n_dropped});
    losses_.push_back({i, first_kept, kept_.size(), squared_scale(leaf)});
  }
  for (int64_t q = 0; q < descent_->block().n_rows; ++q) add_log_mass(q);
  descent_->dropped().add(dropped_items_, log_mass_);
}

// What the kept keys have is taken off a leaf's sum: it is off by rounding of what is kept, which does not matter.
void KeyStage::add_log_mass(int64_t query) {
  if (losses_.empty()) return;
  const auto row = static_cast<size_t>(query);
  const float noise = noise_of(descent_->queries()[query]);
  const float* weights = weights_.f32() + query * rows_.size();
  for (const Loss& loss : losses_) {
    float sum = sums_.sums[row * leaves_.size() + loss.leaf];
    for (size_t i = loss.first_kept; i < loss.last_kept; ++i) sum -= weights[kept_[i]];
    log_mass_.push_back(sums_.max[row] + std::log(std::max(sum, 0.0f)) - noise * loss.variance);
  }
}

// What the noise of an estimate adds to the logarithm of its exponential's mean, per squared scale of the sketch.
float KeyStage::noise_of(TensorView query) const {
  double squares = 0;
  for (int64_t c = 0; c < query.n_elements(); ++c) squares += double{query.f32()[c]} * double{query.f32()[c]};
  const double scale = descent_->scale();
  return static_cast<float>(kNoiseShare * 0.5 * scale * scale * squares *
                            noise_variance(descent_->head().sketches.bits));
}

}  // namespace squeeze
