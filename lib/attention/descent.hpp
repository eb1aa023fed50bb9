// The descent of one block of queries through the levels of one head: scores of the clusters that are in play.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"
#include "lib/attention/block_scores.hpp"
#include "lib/index/head_index.hpp"

namespace squeeze {

// Runs of consecutive items (clusters of one level, rows), ascending, disjoint and merged where they touch.
class ItemRuns {
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
  void for_each(const Body& body) const {  // body(position in the runs, item)
    int64_t position = 0;
    for (const RowRange& run : runs_) {
      for (int32_t item = run.begin; item < run.end; ++item) body(position++, item);
    }
  }
  void reserve(int64_t n_items) { runs_.reserve(static_cast<size_t>(n_items)); }
  void clear() {  // keeps the memory
    runs_.clear();
    size_ = 0;
  }
  const std::vector<RowRange>& runs() const { return runs_; }
  int64_t size() const { return size_; }

 private:
  std::vector<RowRange> runs_;
  int64_t size_ = 0;
};

// The scores are those of lookup.hpp. Owns its buffers and keeps them from one start to the next.
class Descent {
 public:
  // All clusters of the coarsest level are in play. queries: f32 [block.n_rows, head_dim]; head and queries outlive the
  // descent. Throws if the shapes do not fit or a query is not finite.
  void start(const HeadView& head, TensorView queries, float softmax_scale, const BlockShape& block);

  // Makes room for any descent of this head.
  void reserve(const HeadView& head, int64_t n_rows);

  const HeadView& head() const { return *head_; }
  TensorView queries() const { return queries_; }
  float scale() const { return scale_; }
  const BlockShape& block() const { return block_; }
  const LevelView& level() const { return head_->levels[level_]; }
  int32_t level_number() const { return static_cast<int32_t>(level_); }
  bool at_leaves() const { return level_ + 1 == head_->levels.size(); }
  const ItemRuns& in_play() const { return in_play_; }
  int64_t n_keys_in_play() const;
  int64_t n_scored() const { return n_scored_; }  // all levels so far
  DroppedMass& dropped() { return dropped_; }

  // Scores the clusters in play, in their order.
  const BlockScores& score();
  // After score(): the keys of each cluster in play, and the logits [n_rows, clusters in play].
  const std::vector<float>& sizes() const { return sizes_; }
  TensorView logits() const { return logits_; }

  // Moves to the next level, all children in play.
  void descend();
  // The same after score(), without the children of the clusters that are not kept: they join dropped().
  void descend(const std::vector<char>& keep);
  // Adds the clusters in play that are not kept to dropped().
  void drop(const std::vector<char>& keep);

 private:
  void check_block() const;
  void compute_logits();

  const HeadView* head_ = nullptr;
  TensorView queries_;
  float scale_ = 0;
  BlockShape block_;
  size_t level_ = 0;
  ItemRuns in_play_;
  int64_t n_scored_ = 0;
  std::vector<float> sizes_;
  Tensor logits_, weights_;  // weights_: what scoring makes of the logits
  BlockScores scores_;
  DroppedMass dropped_;

  // Buffers of one call.
  ItemRuns next_in_play_;
  std::vector<DroppedCluster> dropped_items_;
  std::vector<size_t> places_;
  std::vector<float> log_sizes_, log_mass_;
};

}  // namespace squeeze
