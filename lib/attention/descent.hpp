// The descent of one block of queries through the levels of one head: scores of the clusters that are in play.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "lib/index/head_index.hpp"

namespace squeeze {

// Runs of consecutive clusters of one level, ascending, disjoint and merged where they touch.
class ClusterRuns {
 public:
  void add(int32_t begin, int32_t end) {
    size_ += end - begin;
    if (!runs_.empty() && runs_.back().end == begin) {
      runs_.back().end = end;
    } else if (begin < end) {
      runs_.push_back({begin, end});
    }
  }
  template <class Body>
  void for_each(const Body& body) const {  // body(position in the runs, cluster)
    int64_t position = 0;
    for (const RowRange& run : runs_) {
      for (int32_t cluster = run.begin; cluster < run.end; ++cluster) body(position++, cluster);
    }
  }
  const std::vector<RowRange>& runs() const { return runs_; }
  int64_t size() const { return size_; }

 private:
  std::vector<RowRange> runs_;
  int64_t size_ = 0;
};

// Starts with the clusters of the coarsest level in play. The scores are those of lookup.hpp. Owns its buffers; head
// and queries outlive it.
class Descent {
 public:
  // queries: f32 [n_rows, head_dim]. Throws if the shapes do not fit or a query is not finite.
  Descent(const HeadView& head, TensorView queries, float softmax_scale);

  const LevelView& level() const { return head_.levels[level_]; }
  int32_t level_number() const { return static_cast<int32_t>(level_); }
  bool at_leaves() const { return level_ + 1 == head_.levels.size(); }
  const ClusterRuns& in_play() const { return in_play_; }
  int64_t n_scored() const { return n_scored_; }  // all levels so far

  // Scores the clusters in play, in their order: the mean over the rows. Throws if a logit is not finite.
  const std::vector<float>& score();

  // Moves to the next level, all children in play.
  void descend();
  // The same after score(), without the children of the clusters whose score is not above the threshold. Their mass
  // stays in the denominators of the levels below.
  void descend_above(float threshold);

 private:
  void check_block() const;
  void score_rows(int64_t begin, int64_t end);
  void compute_logits(int64_t begin, int64_t end);
  void drop_up_to(float threshold);

  const HeadView& head_;
  TensorView queries_;
  float scale_;
  int64_t n_rows_;
  size_t level_ = 0;
  ClusterRuns in_play_;
  int64_t n_scored_ = 0;
  std::vector<float> sizes_;        // N_i of the clusters in play
  std::vector<float> scores_;       // of the clusters in play
  std::vector<float> weights_;      // exp(logit - row_max), [rows held, clusters in play]
  std::vector<float> row_max_;      // [n_rows]
  std::vector<float> dropped_max_;  // [n_rows] the mass dropped so far is dropped_sum x exp(dropped_max)
  std::vector<float> dropped_sum_;  // [n_rows]
};

}  // namespace squeeze
