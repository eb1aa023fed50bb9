// A leaf's own logit, plus what the kernel reads from the sketches of its keys; dropped mass a leaf at a time.
#include "lib/attention/key_stage.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/attention/partition.hpp"
#include "lib/core/error.hpp"
#include "lib/core/scratch.hpp"
#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

constexpr int64_t kMostChunkKeys = 512;
constexpr float kFarShift = 20;  // of the largest weight, as a power of e: those e^-67 times as large keep their digits

int64_t chunk_keys(int64_t n_queries) {
  return std::clamp<int64_t>(kMostChunkKeys * 4 / n_queries, 64, kMostChunkKeys);
}

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
  if (!head.sketches.present()) return;
  const int64_t n_leaves = head.levels.back().n_clusters(), n_keys = head.n_clustered();
  const auto leaves = static_cast<size_t>(n_leaves);
  leaves_.reserve(leaves);
  rows_.reserve(n_leaves);
  const auto rows = static_cast<size_t>(n_rows);
  const int64_t table_bytes = sketch_table_bytes(head.sketches.code_bytes());
  tables_.entries.reserve(rows * static_cast<size_t>(table_bytes));
  tables_.scales.reserve(rows);
  tables_.products.reserve(static_cast<size_t>(head.sketches.n_groups() * kSketchEntries));
  tables_.rotated.resize(DType::f32, {n_rows, head.keys.size(1)});
  weights_.resize(DType::f32, {n_rows, n_keys});
  shifts_.reserve(rows);
  largest_.reserve(rows);
  chunk_scores_.resize(DType::f32, {n_rows, chunk_keys(n_rows)});
  leaf_logits_.reserve(static_cast<size_t>(n_leaves * n_rows));
  leaf_sums_.reserve(static_cast<size_t>(n_leaves * n_rows));
  scores_.reserve(n_keys, n_rows);
  chunk_rows_.reserve(kMostChunkKeys);
  chunk_ends_.reserve(kMostChunkKeys);
  dropped_items_.reserve(leaves);
  losses_.reserve(leaves);
  log_mass_.reserve(static_cast<size_t>(n_leaves * n_rows));
}

const BlockScores& KeyStage::score() {
  const int64_t n_queries = descent_->block().n_rows, n = rows_.size();
  const auto n_leaves = static_cast<int64_t>(leaves_.size());
  tables_ = sketch_tables(descent_->queries(), descent_->head().sketches, descent_->scale(), std::move(tables_));
  weights_.resize(DType::f32, {n_queries, n});
  find_shifts();
  weigh();
  if (shift_again()) weigh();
  scores_.factors.clear();
  for (int64_t q = 0; q < n_queries && n > 0; ++q) {
    double kept = 0;
    for (int64_t i = 0; i < n_leaves; ++i) kept += double{leaf_sums_[static_cast<size_t>(q * n_leaves + i)]};
    const auto row = static_cast<size_t>(q);
    const double dropped = std::exp(descent_->dropped().log_sum(q) - double{shifts_[row]});
    scores_.factors.push_back(static_cast<float>(1.0 / (kept + dropped)));
  }
  const std::span<const float> weights(weights_.f32(), static_cast<size_t>(weights_.n_elements()));
  scores_ = scores_of_weights(weights, n, descent_->block(), std::move(scores_));
  return scores_;
}

// From every leaf's logit the largest of them, or the dropped mass: estimates lie about their leaf's logit.
void KeyStage::find_shifts() {
  const int64_t n_queries = descent_->block().n_rows, n_in_play = descent_->in_play().size();
  shifts_.clear();
  resize_with_room(leaf_logits_, leaves_.size() * static_cast<size_t>(n_queries));
  float* out = leaf_logits_.data();
  for (int64_t q = 0; q < n_queries; ++q) {
    const float* logits = descent_->logits().f32() + q * n_in_play;
    auto shift = static_cast<float>(descent_->dropped().log_sum(q));
    for (const Leaf& leaf : leaves_) shift = std::max(shift, logits[leaf.position]);
    for (const Leaf& leaf : leaves_) *out++ = logits[leaf.position] - shift;
    shifts_.push_back(shift);
  }
}

// Whether the shifts were far from the estimates, which overflowed, or lost digits; then they have been moved.
bool KeyStage::shift_again() {
  bool moved = false;
  for (size_t q = 0; q < shifts_.size() && !leaves_.empty(); ++q) {
    if (!std::isfinite(largest_[q])) fail("scores of a block are not finite (NaN or infinity)");
    const auto dropped = static_cast<float>(descent_->dropped().log_sum(static_cast<int64_t>(q)) - double{shifts_[q]});
    const float by = std::max(largest_[q], dropped);
    if (std::abs(by) < kFarShift) continue;
    moved = true;
    shifts_[q] += by;
    for (size_t i = 0; i < leaves_.size(); ++i) leaf_logits_[q * leaves_.size() + i] -= by;
  }
  return moved;
}

// In chunks whose scores stay in the nearest cache. A leaf may go on in the next chunk.
void KeyStage::weigh() {
  const int64_t n_queries = descent_->block().n_rows;
  const int64_t limit = chunk_keys(n_queries);
  assign_with_room(largest_, static_cast<size_t>(n_queries), -INFINITY);
  assign_with_room(leaf_sums_, leaf_logits_.size(), 0.0f);
  chunk_scores_.resize(DType::f32, {n_queries, limit});
  int64_t first = 0, n = 0;
  size_t first_leaf = 0;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    int64_t left = leaves_[i].n_rows;
    int32_t row = descent_->level().first_row[static_cast<size_t>(leaves_[i].leaf)];
    while (left > 0) {
      const auto taken = static_cast<int32_t>(std::min(left, limit - n));
      append_range(chunk_rows_, {row, row + taken});
      row += taken;
      left -= taken;
      n += taken;
      chunk_ends_.push_back(static_cast<int32_t>(n));
      if (n < limit && (left > 0 || i + 1 < leaves_.size())) continue;
      weigh_chunk(first, first_leaf, i + 1 - first_leaf);
      first += n;
      n = 0;
      first_leaf = left > 0 ? i : i + 1;
      chunk_rows_.clear();
      chunk_ends_.clear();
    }
  }
}

void KeyStage::weigh_chunk(int64_t first, size_t first_leaf, size_t n_leaves) {
  const SketchView& sketches = descent_->head().sketches;
  const int64_t n_queries = descent_->block().n_rows;
  kernels().sketch_scores({.tables = tables_.entries.data(),
                           .n_queries = n_queries,
                           .query_scales = tables_.scales.data(),
                           .codes = sketches.codes,
                           .scales = sketches.scales,
                           .first_row = descent_->head().n_sinks,
                           .ranges = chunk_rows_.data(),
                           .n_ranges = std::ssize(chunk_rows_),
                           .code_bytes = sketches.code_bytes(),
                           .out = chunk_scores_.f32(),
                           .out_stride = chunk_scores_.size(1)});
  kernels().leaf_weights({.scores = chunk_scores_.f32(),
                          .scores_stride = chunk_scores_.size(1),
                          .n_queries = n_queries,
                          .ends = chunk_ends_.data(),
                          .n_leaves = static_cast<int64_t>(n_leaves),
                          .offsets = leaf_logits_.data() + first_leaf,
                          .sums = leaf_sums_.data() + first_leaf,
                          .leaf_stride = std::ssize(leaves_),
                          .weights = weights_.f32() + first,
                          .weights_stride = rows_.size(),
                          .largest = largest_.data()});
}

// The mean of the squared scales of a leaf's sketches.
float KeyStage::squared_scale(const Leaf& leaf) const {
  const int64_t key = descent_->level().first_row[static_cast<size_t>(leaf.leaf)] - descent_->head().n_sinks;
  return kernels().sum_squares_f16(descent_->head().sketches.scales + key, leaf.n_rows) /
         static_cast<float>(leaf.n_rows);
}

void KeyStage::drop(std::span<const int32_t> kept) {
  dropped_items_.clear();
  losses_.clear();
  size_t n_kept = 0;
  for (size_t i = 0; i < leaves_.size(); ++i) {
    const Leaf& leaf = leaves_[i];
    const size_t first_kept = n_kept;
    while (n_kept < kept.size() && kept[n_kept] < leaf.first + leaf.n_rows) ++n_kept;
    const auto n_dropped = static_cast<int32_t>(leaf.n_rows - static_cast<int64_t>(n_kept - first_kept));
    if (n_dropped == 0) continue;
    dropped_items_.push_back({descent_->level_number(), leaf.leaf, n_dropped});
    losses_.push_back({i, first_kept, n_kept, squared_scale(leaf)});
  }
  resize_with_room(log_mass_, losses_.size() * static_cast<size_t>(descent_->block().n_rows));
  for (int64_t q = 0; q < descent_->block().n_rows; ++q) add_log_mass(q, kept);
  descent_->dropped().add(dropped_items_, log_mass_);
}

// What the kept keys have is taken off a leaf's sum: it is off by rounding of what is kept, which does not matter.
void KeyStage::add_log_mass(int64_t query, std::span<const int32_t> kept) {
  const auto row = static_cast<size_t>(query);
  const float miss = miss_of(descent_->queries()[query]);
  const float* weights = weights_.f32() + query * rows_.size();
  const float* sums = leaf_sums_.data() + row * leaves_.size();
  float* out = log_mass_.data() + row * losses_.size();
  for (size_t i = 0; i < losses_.size(); ++i) {
    float sum = sums[losses_[i].leaf];
    for (size_t k = losses_[i].first_kept; k < losses_[i].last_kept; ++k) sum -= weights[kept[k]];
    out[i] = std::max(sum, 0.0f);
  }
  kernels().log(out, std::ssize(losses_));
  for (size_t i = 0; i < losses_.size(); ++i) out[i] += shifts_[row] + miss * losses_[i].squared_scale;
}

// What the misses of the codes add to the logarithm of an exponential's mean, per squared scale of the sketch.
float KeyStage::miss_of(TensorView query) const {
  double squares = 0;
  for (int64_t c = 0; c < query.n_elements(); ++c) squares += double{query.f32()[c]} * double{query.f32()[c]};
  const double scale = descent_->scale();
  return static_cast<float>(0.5 * scale * scale * squares * double{descent_->head().sketches.error});
}

}  // namespace squeeze
