// Calibration: histograms of block scores over all layers and heads, a pass over the layers per level.
#include "lib/index/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/attention/lookup.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/score_histogram.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using LevelHistograms = std::vector<ScoreHistogram>;  // one per level that the pass measures

// What one pass measures: for each block size, the levels [first_level, n_levels) with the upper ones pruning as given.
struct Pass {
  size_t first_level = 0;
  size_t n_levels = 0;
  std::vector<Thresholds> upper;            // [n_block_sizes], of the levels above; empty: nothing is pruned
  std::vector<LevelHistograms> histograms;  // [n_block_sizes]
};

// One unit of work: a block of query tokens against one KV head.
struct Block {
  size_t size_index;
  int64_t kv_head;
  int64_t begin, end;  // query tokens
};

void check_layer(const CalibrationLayer& layer, int number, size_t n_levels, int64_t n_queries) {
  const Shape& shape = layer.queries.shape();
  const auto n_heads = static_cast<int64_t>(layer.heads.size());
  if (n_heads < 1 || shape.rank() != 3 || shape[0] < 1 || shape[0] % n_heads != 0 || shape[1] < 1) {
    fail("layer {}: calibration needs queries [a multiple of {} KV heads, at least 1, head_dim], found {}", number,
         n_heads, shape.str());
  }
  if (shape[1] != n_queries) fail("layer {}: expected {} calibration queries, found {}", number, n_queries, shape[1]);
  for (const HeadView& head : layer.heads) {
    if (head.levels.size() != n_levels || n_levels == 0) {
      fail("layer {}: expected {} levels of clusters in every head, found {}", number, n_levels, head.levels.size());
    }
  }
}

std::vector<Block> blocks_of(const CalibrationLayer& layer, const std::vector<BlockCalibration>& sizes) {
  std::vector<Block> blocks;
  const int64_t n_queries = layer.queries.size(1);
  for (size_t i = 0; i < sizes.size(); ++i) {
    for (int64_t h = 0; h < static_cast<int64_t>(layer.heads.size()); ++h) {
      for (int64_t begin = 0; begin < n_queries; begin += sizes[i].block_size) {
        blocks.push_back({i, h, begin, std::min(n_queries, begin + sizes[i].block_size)});
      }
    }
  }
  return blocks;
}

// The block's queries of every query head of the group, f32 [group_size x n_query_tokens, head_dim].
Tensor gather_queries(const CalibrationLayer& layer, const Block& block, int number) {
  const int64_t group = layer.queries.size(0) / static_cast<int64_t>(layer.heads.size());
  const int64_t n_tokens = block.end - block.begin;
  Tensor out(DType::f32, {group * n_tokens, layer.queries.size(2)});
  for (int64_t g = 0; g < group; ++g) {
    const TensorView rows = layer.queries[block.kv_head * group + g].slice(block.begin, block.end);
    kernels().to_f32(rows.data(), rows.dtype(), rows.n_elements(), out.f32() + g * rows.n_elements());
  }
  for (int64_t i = 0; i < out.n_elements(); ++i) {
    if (!std::isfinite(out.f32()[i])) {
      fail("layer {}, KV head {}: a calibration query is not finite (NaN or infinity); dump the text again", number,
           block.kv_head);
    }
  }
  return out;
}

void measure_block(const HeadView& head, TensorView queries, float scale, const Thresholds& upper, size_t first_level,
                   LevelHistograms& histograms) {
  const auto scores = cluster_scores(head, queries, scale, upper);
  for (size_t level = first_level; level < head.levels.size(); ++level) {
    ScoreHistogram& histogram = histograms[level - first_level];
    for (size_t i = 0; i < scores[level].size(); ++i) {
      const int64_t n_keys = head.levels[level].n_rows(static_cast<int64_t>(i));
      if (std::isnan(scores[level][i])) {
        histogram.add_dropped(n_keys);
      } else {
        histogram.add(scores[level][i], n_keys);
      }
    }
  }
}

void measure_layer(const CalibrationLayer& layer, int number, float scale, const std::vector<BlockCalibration>& sizes,
                   Pass& pass) {
  const std::vector<Block> blocks = blocks_of(layer, sizes);
  parallel_for(static_cast<int64_t>(blocks.size()), [&](int64_t i) {
    const Block& block = blocks[static_cast<size_t>(i)];
    HeadView head = layer.heads[static_cast<size_t>(block.kv_head)];
    head.levels.resize(pass.n_levels);
    measure_block(head, gather_queries(layer, block, number), scale, pass.upper[block.size_index], pass.first_level,
                  pass.histograms[block.size_index]);
  });
}

std::vector<BlockCalibration> clamped_blocks(std::vector<int> sizes, int64_t n_queries) {
  if (sizes.empty()) fail("calibration needs at least one block size, found none");
  std::sort(sizes.begin(), sizes.end());
  if (sizes.front() < 1) fail("a calibration block holds at least 1 query token, found {}", sizes.front());
  std::vector<BlockCalibration> blocks;
  for (const int size : sizes) {
    const int clamped = static_cast<int>(std::min<int64_t>(size, n_queries));
    if (blocks.empty() || blocks.back().block_size != clamped) blocks.push_back({clamped, {}, {}});
  }
  return blocks;
}

std::vector<double> upper_keeps(const CalibrationOptions& options, size_t n_upper) {
  std::vector<double> keep = options.upper_keep;
  if (keep.empty()) {
    for (size_t i = 0; i < n_upper; ++i) keep.push_back(std::pow(kDefaultUpperKeep, static_cast<double>(i + 1)));
  }
  if (keep.size() != n_upper)
    fail("expected an upper_keep for each of {} upper levels, found {}", n_upper, keep.size());
  for (size_t i = 0; i < n_upper; ++i) {
    if (!(keep[i] > 0 && keep[i] <= (i ? keep[i - 1] : 1.0))) {
      fail("upper_keep must lie in (0, 1] and not grow from one level to the next, found {} at level {}", keep[i], i);
    }
  }
  return keep;
}

// The thresholds of the first n_upper levels, each at its share.
Thresholds upper_thresholds(const Calibration& calibration, const BlockCalibration& block, size_t n_upper) {
  Thresholds thresholds;
  for (size_t level = 0; level < n_upper; ++level) {
    thresholds.push_back(block.pruned[level].at(1 - calibration.upper_keep[level]));
  }
  return thresholds;
}

void run_pass(int n_layers, const std::function<CalibrationLayer(int)>& load, float scale,
              const Calibration& calibration, size_t n_levels, Pass& pass) {
  pass.histograms.assign(calibration.blocks.size(), LevelHistograms(pass.n_levels - pass.first_level));
  for (int layer = 0; layer < n_layers; ++layer) {
    const CalibrationLayer loaded = load(layer);
    check_layer(loaded, layer, n_levels, calibration.n_queries);
    measure_layer(loaded, layer, scale, calibration.blocks, pass);
  }
}

// Flat tables of every level in one pass: without pruning they do not depend on one another.
void measure_flat(int n_layers, const std::function<CalibrationLayer(int)>& load, float scale, size_t n_levels,
                  Calibration& calibration) {
  Pass pass{0, n_levels, std::vector<Thresholds>(calibration.blocks.size()), {}};
  run_pass(n_layers, load, scale, calibration, n_levels, pass);
  for (size_t i = 0; i < calibration.blocks.size(); ++i) {
    BlockCalibration& block = calibration.blocks[i];
    for (const ScoreHistogram& h : pass.histograms[i]) block.flat.push_back({h.thresholds(sparsity_grid())});
    block.pruned.push_back(block.flat.front());
  }
}

void measure_pruned(int n_layers, const std::function<CalibrationLayer(int)>& load, float scale, size_t n_levels,
                    size_t level, Calibration& calibration) {
  Pass pass{level, level + 1, {}, {}};
  for (const BlockCalibration& block : calibration.blocks) {
    pass.upper.push_back(upper_thresholds(calibration, block, level));
  }
  run_pass(n_layers, load, scale, calibration, n_levels, pass);
  for (size_t i = 0; i < calibration.blocks.size(); ++i) {
    calibration.blocks[i].pruned.push_back({pass.histograms[i].front().thresholds(sparsity_grid())});
  }
}

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

Thresholds Calibration::thresholds(double sparsity, int64_t n_query_tokens) const {
  if (!(sparsity >= 0 && sparsity <= 1)) fail("a sparsity must lie in [0, 1], found {}", sparsity);
  if (n_query_tokens < 1) fail("a block holds at least 1 query token, found {}", n_query_tokens);
  if (blocks.empty()) fail("the index has no calibration; build it again");
  const BlockCalibration& block = nearest_block(blocks, n_query_tokens);
  const size_t n_upper = upper_keep.size();
  if (block.flat.size() != n_upper + 1 || block.pruned.size() != n_upper + 1) {
    fail("the calibration has {} and {} levels, expected {}", block.flat.size(), block.pruned.size(), n_upper + 1);
  }
  const bool prune = std::all_of(upper_keep.begin(), upper_keep.end(), [&](double k) { return 1 - sparsity < k; });
  if (!prune || n_upper == 0) {
    Thresholds thresholds(n_upper, -kInfinity);
    thresholds.push_back(block.flat.back().at(sparsity));
    return thresholds;
  }
  Thresholds thresholds = upper_thresholds(*this, block, n_upper);
  thresholds.push_back(block.pruned.back().at(sparsity));
  return thresholds;
}

Calibration calibrate(int n_layers, const std::function<CalibrationLayer(int layer)>& load,
                      const CalibrationOptions& options) {
  if (n_layers < 1) fail("calibration needs at least 1 layer, found {}", n_layers);
  Calibration calibration;
  size_t n_levels = 0;
  {
    const CalibrationLayer first = load(0);
    n_levels = first.heads.empty() ? 0 : first.heads.front().levels.size();
    calibration.n_queries = first.queries.shape().rank() == 3 ? first.queries.size(1) : 0;
    check_layer(first, 0, n_levels, calibration.n_queries);
  }
  calibration.source = options.source;
  calibration.upper_keep = upper_keeps(options, n_levels - 1);
  calibration.blocks = clamped_blocks(options.block_sizes, calibration.n_queries);
  measure_flat(n_layers, load, options.softmax_scale, n_levels, calibration);
  for (size_t level = 1; level < n_levels; ++level) {
    measure_pruned(n_layers, load, options.softmax_scale, n_levels, level, calibration);
  }
  return calibration;
}

}  // namespace squeeze
