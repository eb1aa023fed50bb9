// From a target sparsity to score thresholds: the quantile functions of the per-key scores, as calibrate.hpp measures
// them over all layers and heads with recorded queries (Squeezed Attention, arXiv 2411.09688, section 4; here per
// stage, the upper stages pruning, and per query-block size).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace squeeze {

// How the query heads of a KV head choose: by their mean score, by their largest, or each for itself; they attend to
// the union, which is read once.
enum class GqaSelect { group_mean, group_max, per_head };

// A score threshold per stage (the levels of the tree, coarsest first, then the sketches if there are some): what has
// score <= threshold is dropped. -infinity keeps all.
using Thresholds = std::vector<float>;

// threshold[i] drops the share `sparsity_grid()[i]` of the clustered keys, or the share nearest to it that a threshold
// can drop. Non-decreasing; -infinity where nothing is to be dropped.
//
// Limits: keys of one cluster go together, and scores that agree in their first 13 significant bits, or underflow to
// zero, are not told apart. The measured share is as close to the grid's as the largest such group allows.
struct QuantileFunction {
  std::vector<float> thresholds;

  // Linear in the logarithm of the threshold between grid points; sparsity <= 0 gives -infinity, a sparsity beyond the
  // grid its last threshold. Throws if the table has not the grid's size or sparsity is NaN.
  float at(double sparsity) const;
};

// The grid of sparsities of every quantile function, ascending from 0 to below 1, finer towards 1. Steps are at most
// 0.005, so that interpolation keeps within 0.01 whatever the scores.
const std::vector<double>& sparsity_grid();

// How many keys each head has above one threshold for all: the shares of a byte budget.
struct HeadShares {
  int64_t n_layers = 0, n_kv_heads = 0;
  std::vector<float> kept;  // [n targets, n_layers, n_kv_heads] share of the head's clustered keys; empty: not measured

  // What the head keeps over what heads keep on average, where `share` is kept on average; 1 if not measured.
  double factor(double share, int layer, int kv_head) const;
};
// The shares that HeadShares are measured at, ascending from below 0.001 to 1.
const std::vector<double>& share_grid();

struct BlockCalibration {
  int block_size = 1;                    // query tokens whose scores are averaged
  std::vector<QuantileFunction> flat;    // per stage, no upper stage pruning
  std::vector<QuantileFunction> pruned;  // per stage, the upper stages at their upper_keep
  HeadShares shares = {};                // at the last stage, the upper stages at their upper_keep
};

struct Calibration {
  std::string source = "window";          // which queries: "window" or "probes"
  int64_t n_queries = 0;                  // per layer and head
  GqaSelect gqa = GqaSelect::group_mean;  // how the heads of a group chose
  bool sketches = false;                  // the last stage is that of sketches
  std::vector<double> upper_keep;         // per upper stage: share of the clustered keys that it lets through
  std::vector<BlockCalibration> blocks;   // ascending block_size; at least one

  // The calibrated block size nearest in ratio, the smaller on a tie.
  const BlockCalibration& nearest(int64_t n_query_tokens) const;

  // The thresholds of the upper stages, each letting through what it was calibrated to. reused: old ones, for their
  // memory.
  Thresholds pruning(int64_t n_query_tokens, Thresholds reused = {}) const;
  // Those of the first n_upper stages of one block size; no more of them has to be calibrated.
  Thresholds upper_thresholds(const BlockCalibration& block, size_t n_upper, Thresholds reused = {}) const;

  // The thresholds for which the share `sparsity` of the clustered keys is dropped, for a block of n_query_tokens
  // (the calibrated block size nearest in ratio, the smaller on a tie). The upper stages prune where the target keeps
  // less than every one of them lets through; otherwise none does (-infinity), and the leaves alone select. Throws if
  // sparsity is not in [0, 1].
  Thresholds thresholds(double sparsity, int64_t n_query_tokens, Thresholds reused = {}) const;
};

}  // namespace squeeze
