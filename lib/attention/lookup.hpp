// The lookup: compares a block of queries with the centroids of one KV head and selects clusters.
//
// Score of cluster i for query q (arXiv 2411.09688, equation 2, with the running maximum subtracted):
//   S_i = exp(s q·C_i) / sum_j N_j exp(s q·C_j)
// averaged over the query tokens of the block and, by default, over the query heads that share the KV head. Below a
// level that pruned, the sum runs over the scored clusters and the dropped ones at the level where they were dropped,
// so that scores are comparable with and without pruning.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "lib/index/calibration.hpp"
#include "lib/index/head_index.hpp"

namespace squeeze {

enum class Rule { all, threshold, top_k, top_p };
enum class Rest { drop, mean };

struct SelectionRule {
  Rule rule = Rule::all;
  Thresholds thresholds;  // per level; rule threshold uses all of them, top_k and top_p only those of the upper levels
  int64_t top_k = 0;      // number of clustered keys
  double top_p = 1;       // estimated share of the clustered mass
};

struct DroppedCluster {
  int32_t level;
  int32_t cluster;
};

// What a block of queries reads of one KV head, besides the pinned rows.
struct Selection {
  std::vector<RowRange> ranges;          // clustered rows, ascending, disjoint, merged where they touch
  std::vector<DroppedCluster> dropped;   // every clustered row lies in `ranges` or in exactly one of these
  int64_t n_keys = 0;                    // rows in `ranges`
  int64_t n_scored = 0;                  // centroids read, all levels
};

// queries: f32 [n_rows, head_dim], n_rows = group_size x query tokens in any order.
Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule);

// Per level, the block's scores of every cluster that is scored (NaN where an upper level dropped the parent).
// thresholds: per upper level; empty means that nothing is pruned. Used by calibration and by select_clusters.
std::vector<std::vector<float>> cluster_scores(const HeadView& head, TensorView queries, float softmax_scale,
                                               const Thresholds& thresholds);

}  // namespace squeeze
