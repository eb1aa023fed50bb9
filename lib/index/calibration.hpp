// From a target sparsity to score thresholds: the quantile functions of the per-key scores, measured over all layers
// and heads with recorded queries (Squeezed Attention, arXiv 2411.09688, section 4; here per level, the upper levels
// pruning, and per query-block size).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lib/index/head_index.hpp"

namespace squeeze {

// A score threshold per level of the tree, coarsest first: clusters with score <= threshold are dropped.
// -infinity keeps all.
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

struct BlockCalibration {
  int block_size = 1;                    // query tokens whose scores are averaged
  std::vector<QuantileFunction> flat;    // per level, no upper level pruning
  std::vector<QuantileFunction> pruned;  // per level, the upper levels at their upper_keep
};

struct Calibration {
  std::string source = "window";         // which queries: "window" or "probes"
  int64_t n_queries = 0;                 // per layer and head
  std::vector<double> upper_keep;        // per upper level: share of the clustered keys that it lets through
  std::vector<BlockCalibration> blocks;  // ascending block_size; at least one

  // The thresholds for which the share `sparsity` of the clustered keys is dropped, for a block of n_query_tokens
  // (the calibrated block size nearest in ratio, the smaller on a tie). The upper levels prune where the target keeps
  // less than every one of them lets through; otherwise none does (-infinity), and the leaves alone select. Throws if
  // sparsity is not in [0, 1].
  Thresholds thresholds(double sparsity, int64_t n_query_tokens) const;
};

// What calibration needs of one layer. The views stay valid until the next load.
struct CalibrationLayer {
  std::vector<HeadView> heads;  // [n_kv_heads]; keys and values are not read
  TensorView queries;           // [n_query_heads, n_queries, head_dim], queries that see every clustered token
};

struct CalibrationOptions {
  float softmax_scale = 0;
  std::vector<double> upper_keep;  // per upper level, in (0, 1], not growing; empty: powers of kDefaultUpperKeep, so
                                   // that each level lets that share of what reaches it through
  std::vector<int> block_sizes = {1, 8, 32};  // more than n_queries: n_queries; the last block may be shorter
  std::string source = "window";
};

inline constexpr double kDefaultUpperKeep = 0.75;

// Loads every layer once per level of the tree, and layer 0 once more. Deterministic over threads. Memory: one layer at
// a time, and 4 MiB per level and block size. Throws if a query is not finite or layers do not match one another.
Calibration calibrate(int n_layers, const std::function<CalibrationLayer(int layer)>& load,
                      const CalibrationOptions& options);

}  // namespace squeeze
