// Calibration: histograms of block scores over all layers and heads, a pass over the layers per level.
#include "lib/index/calibration.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "kernels/kernels.hpp"
#include "lib/attention/lookup.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/score_histogram.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using LevelHistograms = std::vector<ScoreHistogram>;  // one per level that the pass measures

// What one pass measures: for each block size, the stages [first_level, n_levels) with the upper ones pruning as given.
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
    if (head.n_stages() != n_levels || n_levels == 0) {
      fail("layer {}: expected {} levels of clusters in every head, found {}", number, n_levels, head.n_stages());
    }
  }
}

// Runs of queries that blocks may not span.
std::vector<Block> questions_of(const CalibrationLayer& layer) {
  const int64_t n_queries = layer.queries.size(1);
  std::vector<Block> runs;
  for (size_t i = 0; i < layer.first_query.size(); ++i) {
    const int64_t end = i + 1 < layer.first_query.size() ? layer.first_query[i + 1] : n_queries;
    runs.push_back({0, 0, layer.first_query[i], end});
  }
  if (runs.empty()) runs.push_back({0, 0, 0, n_queries});
  return runs;
}

std::vector<Block> blocks_of(const CalibrationLayer& layer, const std::vector<BlockCalibration>& sizes) {
  std::vector<Block> blocks;
  for (size_t i = 0; i < sizes.size(); ++i) {
    for (int64_t h = 0; h < static_cast<int64_t>(layer.heads.size()); ++h) {
      for (const Block& run : questions_of(layer)) {
        for (int64_t begin = run.begin; begin < run.end; begin += sizes[i].block_size) {
          blocks.push_back({i, h, begin, std::min(run.end, begin + sizes[i].block_size)});
        }
      }
    }
  }
  return blocks;
}

int64_t group_size(const CalibrationLayer& layer) {
  return layer.queries.size(0) / static_cast<int64_t>(layer.heads.size());
}

// The block's queries of every query head of the group, f32 [n_query_tokens x group_size, head_dim].
Tensor gather_queries(const CalibrationLayer& layer, const Block& block, int number) {
  const int64_t group = group_size(layer);
  const int64_t dim = layer.queries.size(2);
  Tensor out(DType::f32, {group * (block.end - block.begin), dim});
  float* row = out.f32();
  for (int64_t t = block.begin; t < block.end; ++t) {
    for (int64_t g = 0; g < group; ++g, row += dim) {
      const TensorView query = layer.queries[block.kv_head * group + g][t];
      kernels().to_f32(query.data(), query.dtype(), dim, row);
    }
  }
  for (int64_t i = 0; i < out.n_elements(); ++i) {
    if (!std::isfinite(out.f32()[i])) {
      fail("layer {}, KV head {}: a calibration query is not finite (NaN or infinity); dump the text again", number,
           block.kv_head);
    }
  }
  return out;
}

// The keys that an item of a stage stands for.
int64_t n_keys_of(const HeadView& head, size_t stage, size_t item) {
  return stage < head.levels.size() ? head.levels[stage].n_rows(static_cast<int64_t>(item)) : 1;
}

void measure_block(const HeadView& head, const std::vector<std::vector<float>>& scores, size_t first_level,
                   LevelHistograms& histograms) {
  for (size_t stage = first_level; stage < scores.size(); ++stage) {
    ScoreHistogram& histogram = histograms[stage - first_level];
    for (size_t i = 0; i < scores[stage].size(); ++i) {
      const int64_t n_keys = n_keys_of(head, stage, i);
      if (std::isnan(scores[stage][i])) {
        histogram.add_dropped(n_keys);
      } else {
        histogram.add(scores[stage][i], n_keys);
      }
    }
  }
}

// The first n_stages stages of a head.
HeadView upper_part(HeadView head, size_t n_stages) {
  if (n_stages <= head.levels.size()) {
    head.levels.resize(n_stages);
    head.sketches = {};
  }
  return head;
}

void measure_layer(const CalibrationLayer& layer, int number, const CalibrationOptions& options,
                   const std::vector<BlockCalibration>& sizes, Pass& pass) {
  const std::vector<Block> blocks = blocks_of(layer, sizes);
  parallel_for(static_cast<int64_t>(blocks.size()), [&](int64_t i) {
    const Block& block = blocks[static_cast<size_t>(i)];
    const HeadView head = upper_part(layer.heads[static_cast<size_t>(block.kv_head)], pass.n_levels);
    const auto scores = stage_scores(head, gather_queries(layer, block, number), options.softmax_scale,
                                     pass.upper[block.size_index], {options.gqa, group_size(layer)});
    measure_block(head, scores, pass.first_level, pass.histograms[block.size_index]);
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

std::vector<double> upper_keeps(const CalibrationOptions& options, size_t n_upper, bool sketches) {
  std::vector<double> keep = options.upper_keep;
  if (keep.empty()) {
    for (size_t i = 0; i < n_upper; ++i) keep.push_back(std::pow(kDefaultUpperKeep, static_cast<double>(i + 1)));
    if (sketches) keep.back() = std::min(keep.back(), kDefaultSketchKeep);
  }
  if (keep.size() != n_upper)
    fail("expected an upper_keep for each of {} upper stages, found {}", n_upper, keep.size());
  for (size_t i = 0; i < n_upper; ++i) {
    if (!(keep[i] > 0 && keep[i] <= (i ? keep[i - 1] : 1.0))) {
      fail("upper_keep must lie in (0, 1] and not grow from one level to the next, found {} at level {}", keep[i], i);
    }
  }
  return keep;
}

// The thresholds of the first n_upper levels, each at its share.
Thresholds upper_thresholds(const Calibration& calibration, const BlockCalibration& block, size_t n_upper,
                            Thresholds reused = {}) {
  Thresholds thresholds = std::move(reused);
  thresholds.clear();
  for (size_t level = 0; level < n_upper; ++level) {
    thresholds.push_back(block.pruned[level].at(1 - calibration.upper_keep[level]));
  }
  return thresholds;
}

using LoadLayer = std::function<CalibrationLayer(int)>;

// What all passes work on.
struct Job {
  int n_layers;
  const LoadLayer& load;
  const CalibrationOptions& options;
  size_t n_stages;
  Calibration calibration = {};

  template <class Body>  // body(layer, number)
  void for_each_layer(const Body& body) const {
    for (int number = 0; number < n_layers; ++number) {
      const CalibrationLayer layer = load(number);
      check_layer(layer, number, n_stages, calibration.n_queries);
      body(layer, number);
    }
  }
  void run(Pass& pass) const {
    pass.histograms.assign(calibration.blocks.size(), LevelHistograms(pass.n_levels - pass.first_level));
    for_each_layer([&](const CalibrationLayer& layer, int number) {
      measure_layer(layer, number, options, calibration.blocks, pass);
    });
  }
  std::vector<Thresholds> upper(size_t n_upper) const {
    std::vector<Thresholds> thresholds;
    for (const BlockCalibration& block : calibration.blocks) {
      thresholds.push_back(upper_thresholds(calibration, block, n_upper));
    }
    return thresholds;
  }
};

// Flat tables of every stage in one pass: without pruning they do not depend on one another.
void measure_flat(Job& job) {
  Pass pass{0, job.n_stages, std::vector<Thresholds>(job.calibration.blocks.size()), {}};
  job.run(pass);
  for (size_t i = 0; i < job.calibration.blocks.size(); ++i) {
    BlockCalibration& block = job.calibration.blocks[i];
    for (const ScoreHistogram& h : pass.histograms[i]) block.flat.push_back({h.thresholds(sparsity_grid())});
    block.pruned.push_back(block.flat.front());
  }
}

void measure_pruned(Job& job, size_t stage) {
  Pass pass{stage, stage + 1, job.upper(stage), {}};
  job.run(pass);
  for (size_t i = 0; i < job.calibration.blocks.size(); ++i) {
    job.calibration.blocks[i].pruned.push_back({pass.histograms[i].front().thresholds(sparsity_grid())});
  }
}

// The thresholds of the last stage at which the share_grid() is kept, ascending (so that the shares descend).
std::vector<float> share_thresholds(const BlockCalibration& block) {
  std::vector<float> thresholds;
  for (const double share : share_grid()) thresholds.push_back(block.pruned.back().at(1 - share));
  std::reverse(thresholds.begin(), thresholds.end());
  return thresholds;
}

// Counts, for one layer, the last stage's keys above each threshold.
void count_shares(const Job& job, const CalibrationLayer& layer, int number, const std::vector<Thresholds>& upper,
                  const std::vector<std::vector<float>>& thresholds, std::vector<HeadShares>& shares) {
  const std::vector<Block> blocks = blocks_of(layer, job.calibration.blocks);
  const size_t n_targets = share_grid().size();
  std::vector<std::vector<int64_t>> above(blocks.size(), std::vector<int64_t>(n_targets + 1, 0));
  parallel_for(static_cast<int64_t>(blocks.size()), [&](int64_t i) {
    const Block& block = blocks[static_cast<size_t>(i)];
    const HeadView& head = layer.heads[static_cast<size_t>(block.kv_head)];
    const std::vector<float>& limits = thresholds[block.size_index];
    const auto scores = stage_scores(head, gather_queries(layer, block, number), job.options.softmax_scale,
                                     upper[block.size_index], {job.options.gqa, group_size(layer)});
    for (size_t item = 0; item < scores.back().size(); ++item) {
      if (std::isnan(scores.back()[item])) continue;
      const auto passed = std::lower_bound(limits.begin(), limits.end(), scores.back()[item]) - limits.begin();
      above[static_cast<size_t>(i)][static_cast<size_t>(passed)] += n_keys_of(head, scores.size() - 1, item);
    }
  });
  const auto n_heads = static_cast<int64_t>(layer.heads.size());
  std::vector<double> n_blocks(shares.size(), 0.0);
  for (const Block& block : blocks) n_blocks[block.size_index] += 1.0 / static_cast<double>(n_heads);
  for (size_t i = 0; i < blocks.size(); ++i) {
    const double n_keys = n_blocks[blocks[i].size_index] *
                          static_cast<double>(layer.heads[static_cast<size_t>(blocks[i].kv_head)].n_clustered());
    int64_t kept = 0;  // passed all of the thresholds from `target` on
    for (size_t target = 0; target < n_targets; ++target) {
      kept += above[i][n_targets - target];
      const auto cell = (static_cast<int64_t>(target) * job.n_layers + number) * n_heads + blocks[i].kv_head;
      shares[blocks[i].size_index].kept[static_cast<size_t>(cell)] +=
          static_cast<float>(static_cast<double>(kept) / n_keys);
    }
  }
}

void measure_shares(Job& job) {
  const std::vector<Thresholds> upper = job.upper(job.n_stages - 1);
  std::vector<std::vector<float>> thresholds;
  for (const BlockCalibration& block : job.calibration.blocks) thresholds.push_back(share_thresholds(block));
  std::vector<HeadShares> shares(job.calibration.blocks.size());
  job.for_each_layer([&](const CalibrationLayer& layer, int number) {
    for (HeadShares& own : shares) {
      own.n_layers = job.n_layers;
      own.n_kv_heads = std::ssize(layer.heads);
      own.kept.resize(share_grid().size() * static_cast<size_t>(own.n_layers * own.n_kv_heads));
    }
    count_shares(job, layer, number, upper, thresholds, shares);
  });
  for (size_t i = 0; i < shares.size(); ++i) job.calibration.blocks[i].shares = std::move(shares[i]);
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

Thresholds Calibration::pruning(int64_t n_query_tokens, Thresholds reused) const {
  return upper_thresholds(*this, nearest(n_query_tokens), upper_keep.size(), std::move(reused));
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
  Thresholds thresholds = upper_thresholds(*this, block, n_upper, std::move(reused));
  thresholds.push_back(block.pruned.back().at(sparsity));
  return thresholds;
}

Calibration calibrate(int n_layers, const std::function<CalibrationLayer(int layer)>& load,
                      const CalibrationOptions& options) {
  if (n_layers < 1) fail("calibration needs at least 1 layer, found {}", n_layers);
  Job job{n_layers, load, options, 0};
  Calibration& calibration = job.calibration;
  {
    const CalibrationLayer first = load(0);
    job.n_stages = first.heads.empty() ? 0 : first.heads.front().n_stages();
    calibration.n_queries = first.queries.shape().rank() == 3 ? first.queries.size(1) : 0;
    check_layer(first, 0, job.n_stages, calibration.n_queries);
    calibration.sketches = first.heads.front().sketches.bits > 0;
  }
  calibration.source = options.source;
  calibration.gqa = options.gqa;
  calibration.upper_keep = upper_keeps(options, job.n_stages - 1, calibration.sketches);
  calibration.blocks = clamped_blocks(options.block_sizes, calibration.n_queries);
  measure_flat(job);
  for (size_t stage = 1; stage < job.n_stages; ++stage) measure_pruned(job, stage);
  measure_shares(job);
  return std::move(job.calibration);
}

}  // namespace squeeze
