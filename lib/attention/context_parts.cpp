// Turns a selection into ranges of rows.
#include "lib/attention/context_parts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// Per query row, the context rows it may see. Rows are in token order outside the clustered part only.
void set_visible_rows(const HeadView& head, std::span<const int64_t> visible_tokens, std::vector<int64_t>& rows) {
  const int64_t first_hideable = head.n_clustered() == 0 ? 0 : head.n_tokens() - head.n_window;
  rows.clear();
  for (const int64_t n_visible : visible_tokens) {
    if (n_visible < first_hideable) {
      fail("a query that sees only {} tokens cannot use this context: clusters cover its first {} tokens", n_visible,
           first_hideable);
    }
    rows.push_back(std::min(n_visible, head.n_tokens()));
  }
}

}  // namespace

AttendPart row_part(const HeadView& head, const Selection& selection, std::span<const int64_t> visible_tokens,
                    AttendPart reused) {
  const auto n_tokens = static_cast<int32_t>(head.n_tokens());
  const int32_t window_begin = n_tokens - head.n_window;
  AttendPart part{head.keys,       head.values,      std::move(reused.ranges), std::move(reused.visible),
                  head.key_scales, head.value_scales};
  part.ranges.clear();
  set_visible_rows(head, visible_tokens, part.visible);
  append_range(part.ranges, {0, head.n_sinks});
  for (const RowRange& range : selection.ranges) {
    if (range.begin < head.n_sinks || range.end > window_begin) {
      fail("selected rows [{}, {}) do not lie in the clustered rows [{}, {})", range.begin, range.end, head.n_sinks,
           window_begin);
    }
    append_range(part.ranges, range);
  }
  append_range(part.ranges, {window_begin, n_tokens});
  return part;
}

AttendWork context_work(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
                        float softmax_scale, std::span<const int64_t> visible_tokens) {
  AttendWork work{queries, {row_part(head, selection, visible_tokens)}, {}};
  if (rest == Rest::mean) work.rest = rest_part(head, selection, queries, softmax_scale);
  return work;
}

void attend_context(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
                    float softmax_scale, std::span<const int64_t> visible_tokens, AttentionState& state) {
  const AttendWork work = context_work(head, selection, rest, queries, softmax_scale, visible_tokens);
  attend_parts({&work, 1}, softmax_scale, {&state, 1});
}

}  // namespace squeeze
