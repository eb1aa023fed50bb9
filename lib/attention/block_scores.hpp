// From logits to scores: the attention that each item (a cluster's key, a key) is estimated to get from a block of
// queries.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/attention/lookup.hpp"

namespace squeeze {

// The query rows that share a selection.
struct BlockShape {
  int64_t n_rows = 0;
  QueryGroup group = {};
};

// log sum exp(x), of any size; overwrites x.
double log_sum_exp(std::span<float> x);

// The attention mass that upper stages dropped, per query row, and the clusters it belongs to.
class DroppedMass {
 public:
  explicit DroppedMass(int64_t n_rows = 0) { reset(n_rows); }
  void reset(int64_t n_rows);  // nothing is dropped; memory is kept
  void reserve(int64_t n_items, int64_t n_rows);
  // log_mass: [n_rows, items.size()], the logarithm of the attention (before normalisation) that each item gets.
  void add(std::span<const DroppedCluster> items, std::span<const float> log_mass);
  // log sum exp over the items of a row; -infinity if there are none.
  double log_sum(int64_t row) const { return log_sum_[static_cast<size_t>(row)]; }
  // Hands the items and their logits to a selection, in exchange for the memory it had.
  void move_to(Selection& selection);

 private:
  std::vector<DroppedCluster> items_;
  std::vector<std::vector<float>> logits_;  // [n_rows][items]
  std::vector<double> log_sum_;             // [n_rows]
  std::vector<float> weights_;              // one row's, on the way to its sum
};

// Scores [n_views, n], one after the other.
struct BlockScores {
  std::vector<float> scores;
  int64_t n = 0;
  std::vector<float> factors = {};  // [n_rows]: what made scores of a row's weights

  void reserve(int64_t n_items, int64_t n_rows) {  // for any number of views
    scores.reserve(static_cast<size_t>(n_items * n_rows));
    factors.reserve(static_cast<size_t>(n_rows));
  }
  std::span<const float> view(int64_t v) const { return {scores.data() + v * n, static_cast<size_t>(n)}; }
  int64_t n_views() const { return n ? static_cast<int64_t>(scores.size()) / n : 0; }
};

// logits: [block.n_rows, n], which become exp(logit - a maximum of the row); sizes: keys of each item, [n], or empty:
// one each. The score of an item for one query row is exp(logit) / (sum_j sizes[j] exp(logit_j) + dropped), as
// lookup.hpp defines it; per view it is averaged over tokens and averaged, or maximised, over heads. reused: old
// scores, for their memory. Throws if a logit is not finite.
BlockScores block_scores(std::span<float> logits, int64_t n, std::span<const float> sizes, const DroppedMass& dropped,
                         const BlockShape& block, BlockScores reused = {});

// The same from weights [block.n_rows, n], which times reused.factors [block.n_rows] are each row's scores.
BlockScores scores_of_weights(std::span<const float> weights, int64_t n, const BlockShape& block, BlockScores reused);

}  // namespace squeeze
