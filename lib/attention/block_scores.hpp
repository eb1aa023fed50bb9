// From logits to scores: the attention that each item (a cluster's key, a key) is estimated to get from a block of
// queries, and the items that survive a cut.
#pragma once

#include <cstdint>
#include <cstring>
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
  explicit DroppedMass(int64_t n_rows);
  // log_mass: [n_rows, items.size()], the logarithm of the attention (before normalisation) that each item gets.
  void add(std::span<const DroppedCluster> items, std::span<const float> log_mass);
  // log sum exp over the items of a row; -infinity if there are none.
  double log_sum(int64_t row) const { return log_sum_[static_cast<size_t>(row)]; }
  // Hands the items and their logits to a selection.
  void move_to(Selection& selection);

 private:
  std::vector<DroppedCluster> items_;
  std::vector<std::vector<float>> logits_;  // [n_rows][items]
  std::vector<double> log_sum_;             // [n_rows]
};

// Scores [n_views, n], one after the other.
struct BlockScores {
  std::vector<float> scores;
  int64_t n = 0;

  std::span<const float> view(int64_t v) const { return {scores.data() + v * n, static_cast<size_t>(n)}; }
  int64_t n_views() const { return n ? static_cast<int64_t>(scores.size()) / n : 0; }
};

// Sums of exp(logit - max) over runs of items, which block_scores can leave behind.
struct RunSums {
  std::vector<int64_t> ends;  // [n_runs], ascending, the last one n: what is wanted
  std::vector<float> max;     // [n_rows], of each row's logits
  std::vector<float> sums;    // [n_rows, n_runs]
};

// logits: [block.n_rows, n], which become exp(logit - a maximum of the row); sizes: keys of each item, [n], or empty:
// one each. The score of an item for one query row is exp(logit) / (sum_j sizes[j] exp(logit_j) + dropped), as
// lookup.hpp defines it; per view it is averaged over tokens and averaged, or maximised, over heads. runs: null, or
// where the sums go; only without sizes. Throws if a logit is not finite.
BlockScores block_scores(std::span<float> logits, int64_t n, std::span<const float> sizes, const DroppedMass& dropped,
                         const BlockShape& block, RunSums* runs = nullptr);

// Calls body(i) for the items of [begin, end) that are kept: quick where they are few. keep: 0 and 1.
template <class Body>
void for_each_one(const std::vector<char>& keep, int64_t begin, int64_t end, const Body& body) {
  for (int64_t i = begin; i < end; ++i) {
    const void* next = std::memchr(keep.data() + i, 1, static_cast<size_t>(end - i));
    if (!next) return;
    i = static_cast<const char*>(next) - keep.data();
    body(i);
  }
}

// Which items survive in any view: those whose score exceeds the threshold.
std::vector<char> keep_above(const BlockScores& scores, float threshold);
// The best items as long as they hold at most max_keys keys together (views share them equally, the first ones get what
// is left over). At least the best one of each view that gets any survives; skip_large: an item that does not fit is
// passed over, not the end. Equal scores: the lower item first.
std::vector<char> keep_best(const BlockScores& scores, std::span<const float> sizes, int64_t max_keys,
                            bool skip_large = false);
// The best items until their estimated mass reaches `mass`.
std::vector<char> keep_mass(const BlockScores& scores, std::span<const float> sizes, double mass);

}  // namespace squeeze
