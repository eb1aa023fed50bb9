// The keys that were not selected, counted through their clusters: an estimated attention mass times the mean of the
// cluster's values, at the stage where they were dropped (the idea of Multipole Attention, arXiv 2506.13059).
#pragma once

#include <cstdint>
#include <vector>

#include "lib/attention/attention_state.hpp"
#include "lib/attention/lookup.hpp"

namespace squeeze {

struct RestPart {
  struct Run {  // consecutive clusters of one level
    ScaledRows value_means;
    RowRange clusters;
  };
  std::vector<Run> runs;
  std::vector<float> logits;  // [n_rows, n_items]
  int64_t n_items = 0;        // clusters in all runs

  void reserve(const HeadView& head, int64_t n_rows);
};

// What the selection dropped; if it brings no rest_logits they are computed: log n_keys + softmax_scale q·C.
// queries: f32 [n_rows, head_dim]. reused: an old part, for its memory.
RestPart rest_part(const HeadView& head, const Selection& selection, TensorView queries, float softmax_scale,
                   RestPart reused = {});

// What attend_rest computes in, kept from one call to the next.
struct RestScratch {
  AttentionState state;
  std::vector<float> weights;  // as RestPart::logits

  void reserve(const HeadView& head, int64_t n_rows);
};

// Adds the part to the state of the same rows.
void attend_rest(const RestPart& part, AttentionState& state, RestScratch& scratch);

}  // namespace squeeze
