// The last stage: the keys of the leaves that survived, told apart by their sketches (lib/index/sketch.hpp).
#pragma once

#include <span>
#include <vector>

#include "lib/attention/descent.hpp"
#include "lib/attention/sketch_tables.hpp"

namespace squeeze {

// Estimates the logits of every key in the kept leaves of a descent that has scored its leaves. Owns its buffers and
// keeps them from one start to the next.
class KeyStage {
 public:
  // keep: per leaf in play. The head has sketches; the leaves that are not kept join the descent's dropped mass. The
  // descent outlives this.
  void start(Descent& descent, const std::vector<char>& keep);

  // Makes room for any keys of this head.
  void reserve(const HeadView& head, int64_t n_rows);

  const ItemRuns& rows() const { return rows_; }  // the candidate rows
  // Scores the candidates, in their order.
  const BlockScores& score();
  // After score(). kept: candidates, ascending. Adds what each leaf lost to the descent's dropped mass: the sum of
  // exp(estimated logit) over its keys that are not kept, times what the misses of the codes add to an exponential's
  // mean (lib/index/sketch.hpp), at the leaf's mean squared scale.
  void drop(std::span<const int32_t> kept);

 private:
  struct Leaf {
    int32_t leaf;
    size_t position;  // among the leaves in play
    int64_t first;    // candidate
    int64_t n_rows;
  };
  struct Loss {  // of a leaf that lost keys
    size_t leaf;
    size_t first_kept, last_kept;  // among all kept candidates
    float squared_scale;           // the mean of its sketches'
  };
  void find_shifts();
  void weigh();
  void weigh_chunk(int64_t first, size_t first_leaf, size_t n_leaves);
  bool shift_again();
  float squared_scale(const Leaf& leaf) const;
  float miss_of(TensorView query) const;
  void add_log_mass(int64_t query, std::span<const int32_t> kept);

  Descent* descent_ = nullptr;
  std::vector<Leaf> leaves_;
  ItemRuns rows_;
  SketchTables tables_;
  Tensor weights_;                       // f32 [query rows, candidates]: exp(estimated logit - shift)
  std::vector<float> shifts_, largest_;  // [query rows]; largest estimated logit - shift
  std::vector<float> leaf_logits_;       // [query rows, leaves] less shift
  std::vector<float> leaf_sums_;         // [query rows, leaves] of weights
  BlockScores scores_;

  // Of one chunk.
  Tensor chunk_scores_;  // f32 [query rows, candidates]
  std::vector<RowRange> chunk_rows_;
  std::vector<int32_t> chunk_ends_;  // of its leaves

  // Of the keys that are dropped.
  std::vector<DroppedCluster> dropped_items_;
  std::vector<Loss> losses_;
  std::vector<float> log_mass_;
};

}  // namespace squeeze
