// Scores by the kernels, a query row at a time, with the running maximum subtracted.
#include "lib/attention/block_scores.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/scratch.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Turns one row's logits into exp(logit - max); returns the factor that makes them scores.
float exponentiate(std::span<float> row, std::span<const float> sizes, double dropped_log_sum) {
  const auto n = static_cast<int64_t>(row.size());
  const Extent extent = kernels().extent(row.data(), n);
  const float max = std::max(extent.largest, static_cast<float>(dropped_log_sum));
  const float kept = kernels().exp_sum(row.data(), n, max, sizes.empty() ? nullptr : sizes.data());
  if (extent.smallest == -kInfinity || extent.largest == kInfinity || std::isnan(kept)) {
    fail("scores of a block are not finite (NaN or infinity)");
  }
  return 1.0f / (kept + static_cast<float>(std::exp(dropped_log_sum - double{max})));
}

// out += sum over n_rows of factor * row.
void add_rows(const float* factors, const float* rows, int64_t n_rows, int64_t n, float* out) {
  kernels().weighted_sum({factors, n_rows, 1, rows, n_rows, n, out});
}

}  // namespace

double log_sum_exp(std::span<float> x) {
  const auto n = static_cast<int64_t>(x.size());
  const float max = kernels().extent(x.data(), n).largest;
  if (max == -kInfinity) return -double{kInfinity};
  const float sum = kernels().exp_sum(x.data(), n, max, nullptr);
  return double{max} + std::log(double{sum});
}

void DroppedMass::reset(int64_t n_rows) {
  items_.clear();
  logits_.resize(static_cast<size_t>(n_rows));
  for (std::vector<float>& row : logits_) row.clear();
  log_sum_.assign(static_cast<size_t>(n_rows), -double{kInfinity});
}

void DroppedMass::reserve(int64_t n_items, int64_t n_rows) {
  const auto n = static_cast<size_t>(n_items);
  reset(n_rows);
  items_.reserve(n);
  for (std::vector<float>& row : logits_) row.reserve(n);
  weights_.reserve(n);
}

void DroppedMass::add(std::span<const DroppedCluster> items, std::span<const float> log_mass) {
  if (items.empty()) return;
  append_with_room(items_, items);
  for (size_t row = 0; row < logits_.size(); ++row) {
    const std::span<const float> own = log_mass.subspan(row * items.size(), items.size());
    append_with_room(logits_[row], own);
    weights_.clear();
    append_with_room(weights_, own);
    const double added = log_sum_exp(weights_);
    if (added == -double{kInfinity}) continue;
    const double top = std::max(log_sum_[row], added);
    log_sum_[row] = top + std::log(std::exp(log_sum_[row] - top) + std::exp(added - top));
  }
}

void DroppedMass::move_to(Selection& selection) {
  selection.rest_logits.clear();
  for (const std::vector<float>& row : logits_) append_with_room(selection.rest_logits, row);
  selection.dropped.swap(items_);
}

BlockScores block_scores(std::span<float> logits, int64_t n, std::span<const float> sizes, const DroppedMass& dropped,
                         const BlockShape& block, BlockScores reused) {
  const auto width = static_cast<size_t>(n);
  reused.factors.clear();
  for (int64_t r = 0; r < block.n_rows && n > 0; ++r) {
    const std::span<float> row = logits.subspan(static_cast<size_t>(r) * width, width);
    reused.factors.push_back(exponentiate(row, sizes, dropped.log_sum(r)));
  }
  return scores_of_weights(logits, n, block, std::move(reused));
}

BlockScores scores_of_weights(std::span<const float> weights, int64_t n, const BlockShape& block, BlockScores reused) {
  BlockScores out = std::move(reused);
  std::vector<float>& factors = out.factors;
  std::vector<float>& heads = out.scores;
  out.n = n;
  const auto width = static_cast<size_t>(n);
  const int64_t n_heads = block.group.select == GqaSelect::group_mean ? 1 : block.group.size;
  const float share = static_cast<float>(n_heads) / static_cast<float>(block.n_rows);
  for (float& factor : factors) factor *= share;
  assign_with_room(heads, static_cast<size_t>(n_heads) * width, 0.0f);
  if (n_heads == 1) {
    add_rows(factors.data(), weights.data(), std::ssize(factors), n, heads.data());
  } else {
    for (int64_t r = 0; r < std::ssize(factors); ++r) {
      add_rows(factors.data() + r, weights.data() + r * n, 1, n, heads.data() + r % n_heads * n);
    }
  }
  if (block.group.select == GqaSelect::group_max) {
    for (int64_t h = 1; h < n_heads; ++h) {
      for (size_t i = 0; i < width; ++i) heads[i] = std::max(heads[i], heads[static_cast<size_t>(h) * width + i]);
    }
    heads.resize(width);
  }
  return out;
}

}  // namespace squeeze
