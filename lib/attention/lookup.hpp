// The lookup: compares a block of queries with the centroids of one KV head, then with the sketches of the keys below
// the best leaves, and selects rows.
//
// Score of cluster i for query q (arXiv 2411.09688, equation 2, with the running maximum subtracted):
//   S_i = exp(s q·C_i) / sum_j N_j exp(s q·C_j)
// averaged over the query tokens of the block and over the query heads that share the KV head (GqaSelect). Below a
// stage that pruned, the sum runs over the scored items and the dropped ones at the stage where they were dropped, so
// that scores are comparable with and without pruning. A key's score is the same, with its sketch's estimate of q·k.
//
// Stages: the levels of clusters, coarsest first, then the sketches if the head has some.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "lib/index/calibration.hpp"
#include "lib/index/head_index.hpp"

namespace squeeze {

enum class Rule { all, threshold, top_k, top_p, bytes };
enum class Rest { drop, mean };
inline constexpr double kMaxSketched = 0.9;  // share of the keys in play whose sketches a byte budget reads
// The query heads that share a KV head.
struct QueryGroup {
  GqaSelect select = GqaSelect::group_mean;
  int64_t size = 1;  // query heads per KV head; a block's rows are token by token, a token's heads together
};

// Upper stages prune in one of two ways: by score (score <= threshold is dropped; -infinity prunes nothing and reads
// nothing) or by size (keep_keys: the best clusters as long as they hold at most so many keys). The last stage keeps,
// of what is left:
//   all        everything; nothing is scored
//   threshold  items with score > threshold
//   top_k      the best items by score, as long as they hold at most top_k keys together; the best item is taken even
//              if it holds more, unless top_k is 0
//   top_p      the best items by score until their estimated mass, the sum of N_i S_i, reaches top_p of the clustered
//              mass (1 over all, dropped ones included); 1 takes everything, 0 nothing. By score, not by mass,
//              since the fewest keys are wanted, not the fewest clusters.
//   bytes      top_k, for the number of keys that `bytes` leaves after pinned rows, centroids, sketches and
//   (Rest::mean)
//              value means. The upper levels prune by keep_keys; the leaves let through what sketch_share of the bytes
//              that the centroids left pays sketches for.
// Equal scores: the lower item first.
struct SelectionRule {
  Rule rule = Rule::all;
  Thresholds thresholds = {};  // per stage; rule threshold uses all of them, the others only those of the upper stages
  int64_t top_k = 0;           // number of clustered keys
  double top_p = 1;            // estimated share of the clustered mass
  std::vector<int64_t> keep_keys = {};  // per upper level, instead of thresholds; empty: thresholds
  double bytes = 0;                     // of this lookup
  double sketch_share = 0.5;
  Rest rest = Rest::drop;  // rule bytes: whether value means are read too
  QueryGroup group = {};

  void clear();  // the default rule; memory is kept
};

struct DroppedCluster {
  int32_t level;
  int32_t cluster;
  int32_t n_keys;  // of its keys were not selected: all, or those that the sketches dropped
  friend bool operator==(const DroppedCluster&, const DroppedCluster&) = default;
};

// What a block of queries reads of one KV head, besides the pinned rows.
struct Selection {
  std::vector<RowRange> ranges;         // clustered rows, ascending, disjoint, merged where they touch
  std::vector<DroppedCluster> dropped;  // every clustered row lies in `ranges` or belongs to exactly one of these
  int64_t n_keys = 0;                   // rows in `ranges`
  int64_t n_scored = 0;                 // centroids read, all levels
  int64_t index_bytes = 0;              // what else was read to select: page bounds, sketches, ...
  int64_t n_sketched = 0;               // sketches read
  // [n_rows, dropped.size()]: per query row the logarithm of the attention (before normalisation) that the keys of a
  // dropped item are estimated to get together: log n_keys + s q·C where only the centroid was read. Empty: not
  // computed.
  std::vector<float> rest_logits;

  void clear();  // nothing is selected; memory is kept
  // Makes room for any selection of this head.
  void reserve(const HeadView& head, int64_t n_rows);
};

// More ranges than any selection of this head has: they do not touch.
inline size_t max_ranges(const HeadView& head) { return static_cast<size_t>(head.n_clustered() / 2 + 1); }

struct LookupScratch;  // lookup_scratch.hpp

// queries: f32 [n_rows, head_dim], n_rows = group_size x query tokens. Runs on the calling thread. Throws if a query is
// not finite, if a score overflows, or if the rule does not fit the head (number of thresholds, sizes).
Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule);
// The same in memory that is kept; the selection takes that of scratch.spare.
Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule,
                          LookupScratch& scratch);

// Per stage, the block's scores of every cluster (the last stage of a head with sketches: of every clustered key) that
// is scored; NaN where an upper stage dropped it. With GqaSelect::per_head the largest of the heads' scores: one
// threshold for all selects the union of what each selects. thresholds: per upper stage; empty means that nothing is
// pruned. Used by calibration; the same scores as select_clusters compares. Throws as select_clusters does.
std::vector<std::vector<float>> stage_scores(const HeadView& head, TensorView queries, float softmax_scale,
                                             const Thresholds& thresholds, const QueryGroup& group = {});

}  // namespace squeeze
