// Histograms of block scores over all layers and heads, a pass over the layers per stage; then the heads' shares.
#include "lib/index/calibrate.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lib/attention/lookup.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/calibration_blocks.hpp"
#include "lib/index/score_histogram.hpp"

namespace squeeze {
namespace {

using LevelHistograms = std::vector<ScoreHistogram>;  // one per level that the pass measures

// What one pass measures: for each block size, the stages [first_level, n_levels) with the upper ones pruning as given.
struct Pass {
  size_t first_level = 0;
  size_t n_levels = 0;
  std::vector<Thresholds> upper;            // [n_block_sizes], of the levels above; empty: nothing is pruned
  std::vector<LevelHistograms> histograms;  // [n_block_sizes]
};

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
  const std::vector<CalibrationBlock> blocks = blocks_of(layer, sizes);
  parallel_for(static_cast<int64_t>(blocks.size()), [&](int64_t i) {
    const CalibrationBlock& block = blocks[static_cast<size_t>(i)];
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
      thresholds.push_back(calibration.upper_thresholds(block, n_upper));
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
  const std::vector<CalibrationBlock> blocks = blocks_of(layer, job.calibration.blocks);
  const size_t n_targets = share_grid().size();
  std::vector<std::vector<int64_t>> above(blocks.size(), std::vector<int64_t>(n_targets + 1, 0));
  parallel_for(static_cast<int64_t>(blocks.size()), [&](int64_t i) {
    const CalibrationBlock& block = blocks[static_cast<size_t>(i)];
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
  for (const CalibrationBlock& block : blocks) n_blocks[block.size_index] += 1.0 / static_cast<double>(n_heads);
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

}  // namespace

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
    calibration.sketches = first.heads.front().sketches.present();
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
