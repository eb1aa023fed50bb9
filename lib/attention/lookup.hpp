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

// Upper levels: every rule but `all` prunes them by their thresholds (score <= threshold is dropped); a level whose
// threshold is -infinity, or that has none, prunes nothing and is not read. Leaves below the survivors:
//   all        every cluster, upper levels included; no centroid is read
//   threshold  leaves with score > threshold
//   top_k      the best leaves by score, as long as they hold at most top_k keys together; the best leaf is taken even
//              if it holds more, unless top_k is 0
//   top_p      the best leaves by score until their estimated mass, the sum of N_i S_i, reaches top_p of the clustered
//              mass (1 over all clusters, dropped ones included); 1 takes every leaf, 0 none. By score, not by mass,
//              since the fewest keys are wanted, not the fewest clusters.
// Equal scores: the lower cluster first.
struct SelectionRule {
  Rule rule = Rule::all;
  Thresholds thresholds =
      {};             // per level; rule threshold uses all of them, top_k and top_p only those of the upper levels
  int64_t top_k = 0;  // number of clustered keys
  double top_p = 1;   // estimated share of the clustered mass
};

struct DroppedCluster {
  int32_t level;
  int32_t cluster;
  friend bool operator==(const DroppedCluster&, const DroppedCluster&) = default;
};

// What a block of queries reads of one KV head, besides the pinned rows.
struct Selection {
  std::vector<RowRange> ranges;         // clustered rows, ascending, disjoint, merged where they touch
  std::vector<DroppedCluster> dropped;  // by clusters: a clustered row lies in `ranges` or in exactly one
  int64_t n_keys = 0;                   // rows in `ranges`
  int64_t n_scored = 0;                 // centroids read, all levels
  int64_t index_bytes = 0;              // what else was read to select: page bounds, sketches, ...
};

// queries: f32 [n_rows, head_dim], n_rows = group_size x query tokens in any order. Runs on the calling thread. Throws
// if a query is not finite, if a score overflows, or if the rule does not fit the head (number of thresholds, sizes).
Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule);

// Per level, the block's scores of every cluster that is scored (NaN where an upper level dropped the parent).
// thresholds: per upper level; empty means that nothing is pruned. Used by calibration; the same scores as
// select_clusters compares. Throws as select_clusters does.
std::vector<std::vector<float>> cluster_scores(const HeadView& head, TensorView queries, float softmax_scale,
                                               const Thresholds& thresholds);

}  // namespace squeeze
