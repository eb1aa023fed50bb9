// Attention over a selection of one context head's rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/attention/lookup.hpp"
#include "lib/attention/partition.hpp"

namespace squeeze {

// What a block of queries reads of one context head: the pinned and selected rows and, with Rest::mean, the dropped
// clusters at their centroids and value means, each counting N_i times (arXiv 2506.13059).
// visible_tokens: per query row, the number of context tokens it may see (replay of queries inside the context: its
// position + 1); empty: all. Only window rows can be hidden; throws if a clustered row would have to be.
std::vector<AttendPart> context_parts(const HeadView& head, const Selection& selection, Rest rest,
                                      std::span<const int64_t> visible_tokens);

// Softmax attention of f32 queries [n_rows, head_dim] over context_parts, added to `state` un-normalised, so that a
// tail can be added.
void attend_context(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
                    float softmax_scale, std::span<const int64_t> visible_tokens, AttentionState& state);

}  // namespace squeeze
