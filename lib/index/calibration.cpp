// The grids, and what lies between their points.
#include "lib/index/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const BlockCalibration& nearest_block(const std::vector<BlockCalibration>& blocks, int64_t n_query_tokens) {
  const auto distance = [&](const BlockCalibration& block) {
    return std::abs(std::log(static_cast<double>(block.block_size) / static_cast<double>(n_query_tokens)));
  };
  return *std::min_element(blocks.begin(), blocks.end(),
                           [&](const auto& a, const auto& b) { return distance(a) < distance(b); });
}

}  // namespace

const std::vector<double>& sparsity_grid() {
  static const std::vector<double> grid = [] {
    std::vector<double> shares;
    for (int i = 0; i < 180; ++i) shares.push_back(i / 200.0);         // [0, 0.9) by 0.005
    for (int i = 900; i < 990; ++i) shares.push_back(i / 1000.0);      // [0.9, 0.99) by 0.001
    for (int i = 9900; i < 10000; ++i) shares.push_back(i / 10000.0);  // [0.99, 1) by 0.0001
    return shares;
  }();
  return grid;
}

float QuantileFunction::at(double sparsity) const {
  const std::vector<double>& grid = sparsity_grid();
  if (thresholds.size() != grid.size())
    fail("a quantile function has {} thresholds, found {}", grid.size(), thresholds.size());
  if (std::isnan(sparsity)) fail("a sparsity must be a number, found NaN");
  if (sparsity <= 0) return -kInfinity;
  const auto above = static_cast<size_t>(std::upper_bound(grid.begin(), grid.end(), sparsity) - grid.begin());
  const float low = thresholds[above - 1];
  if (above == grid.size() || sparsity == grid[above - 1] || low <= 0) return low;
  const double weight = (sparsity - grid[above - 1]) / (grid[above] - grid[above - 1]);
  const double log_low = std::log(double{low});
  const double log_high = std::log(double{thresholds[above]});
  return static_cast<float>(std::exp(log_low + weight * (log_high - log_low)));
}

const std::vector<double>& share_grid() {
  static const std::vector<double> grid = [] {
    std::vector<double> shares;
    for (int i = 21; i >= 0; --i) shares.push_back(std::pow(2.0, -i / 2.0));
    return shares;
  }();
  return grid;
}

double HeadShares::factor(double share, int layer, int kv_head) const {
  if (kept.empty()) return 1;
  const std::vector<double>& grid = share_grid();
  const auto n_heads = static_cast<size_t>(n_layers * n_kv_heads);
  const auto factor_at = [&](size_t target) {
    const auto row = kept.begin() + static_cast<std::ptrdiff_t>(target * n_heads);
    double sum = 0;
    for (size_t i = 0; i < n_heads; ++i) sum += double{row[static_cast<std::ptrdiff_t>(i)]};
    return sum > 0 ? double{row[layer * n_kv_heads + kv_head]} * static_cast<double>(n_heads) / sum : 1.0;
  };
  const auto above = static_cast<size_t>(std::upper_bound(grid.begin(), grid.end(), share) - grid.begin());
  if (above == 0) return factor_at(0);
  if (above == grid.size()) return factor_at(above - 1);
  const double weight = std::log(share / grid[above - 1]) / std::log(grid[above] / grid[above - 1]);
  return factor_at(above - 1) * (1 - weight) + factor_at(above) * weight;
}

const BlockCalibration& Calibration::nearest(int64_t n_query_tokens) const {
  if (n_query_tokens < 1) fail("a block holds at least 1 query token, found {}", n_query_tokens);
  if (blocks.empty()) fail("the index has no calibration; build it again");
  return nearest_block(blocks, n_query_tokens);
}

Thresholds Calibration::upper_thresholds(const BlockCalibration& block, size_t n_upper, Thresholds reused) const {
  Thresholds thresholds = std::move(reused);
  thresholds.clear();
  for (size_t level = 0; level < n_upper; ++level) {
    thresholds.push_back(block.pruned[level].at(1 - upper_keep[level]));
  }
  return thresholds;
}

Thresholds Calibration::pruning(int64_t n_query_tokens, Thresholds reused) const {
  return upper_thresholds(nearest(n_query_tokens), upper_keep.size(), std::move(reused));
}

Thresholds Calibration::thresholds(double sparsity, int64_t n_query_tokens, Thresholds reused) const {
  if (!(sparsity >= 0 && sparsity <= 1)) fail("a sparsity must lie in [0, 1], found {}", sparsity);
  const BlockCalibration& block = nearest(n_query_tokens);
  const size_t n_upper = upper_keep.size();
  if (block.flat.size() != n_upper + 1 || block.pruned.size() != n_upper + 1) {
    fail("the calibration has {} and {} levels, expected {}", block.flat.size(), block.pruned.size(), n_upper + 1);
  }
  const bool prune = std::all_of(upper_keep.begin(), upper_keep.end(), [&](double k) { return 1 - sparsity < k; });
  if (!prune || n_upper == 0) {
    Thresholds thresholds = std::move(reused);
    thresholds.assign(n_upper, -kInfinity);
    thresholds.push_back(block.flat[n_upper - (sketches ? 1 : 0)].at(sparsity));
    return thresholds;
  }
  Thresholds thresholds = upper_thresholds(block, n_upper, std::move(reused));
  thresholds.push_back(block.pruned.back().at(sparsity));
  return thresholds;
}

}  // namespace squeeze
