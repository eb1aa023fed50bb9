// Attention over a selection of one context head's rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/attention/lookup.hpp"
#include "lib/attention/partition.hpp"

namespace squeeze {

// The pinned and selected rows of one context head. visible_tokens: per query row, the number of context tokens it may
// see (replay of queries inside the context: its position + 1); empty: all. Only window rows can be hidden; throws if a
// clustered row would have to be. reused: an old part, for its memory.
AttendPart row_part(const HeadView& head, const Selection& selection, std::span<const int64_t> visible_tokens,
                    AttendPart reused = {});

// What a block of queries reads of one context head: row_part and, with Rest::mean, what was dropped (rest_part.hpp).
// queries: f32 [n_rows, head_dim].
AttendWork context_work(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
                        float softmax_scale, std::span<const int64_t> visible_tokens);

// Softmax attention of f32 queries [n_rows, head_dim] over context_work, added to `state` un-normalised, so that a
// tail can be added.
void attend_context(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
                    float softmax_scale, std::span<const int64_t> visible_tokens, AttentionState& state);

}  // namespace squeeze
