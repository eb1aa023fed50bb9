// Turns a selection into ranges of rows, and dropped clusters into weighted rows.
#include "lib/attention/context_parts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// Per query row, the context rows it may see. Rows are in token order outside the clustered part only.
std::vector<int64_t> visible_rows(const HeadView& head, std::span<const int64_t> visible_tokens) {
  const int64_t first_hideable = head.n_clustered() == 0 ? 0 : head.n_tokens() - head.n_window;
  std::vector<int64_t> rows;
  for (const int64_t n_visible : visible_tokens) {
    if (n_visible < first_hideable) {
      fail("a query that sees only {} tokens cannot use this context: clusters cover its first {} tokens", n_visible,
           first_hideable);
    }
    rows.push_back(std::min(n_visible, head.n_tokens()));
  }
  return rows;
}

AttendPart row_part(const HeadView& head, const Selection& selection, std::span<const int64_t> visible_tokens) {
  const auto n_tokens = static_cast<int32_t>(head.n_tokens());
  const int32_t window_begin = n_tokens - head.n_window;
  AttendPart part{head.keys, head.values, {}, {}, visible_rows(head, visible_tokens)};
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

// The dropped clusters of one level: the bias of a cluster that was not dropped there is -infinity.
AttendPart mean_part(const HeadView& head, const Selection& selection, int32_t level) {
  constexpr float kAbsent = -std::numeric_limits<float>::infinity();
  const LevelView& view = head.levels[static_cast<size_t>(level)];
  AttendPart part{view.centroids, view.value_means, {}, {}, {}};
  part.row_bias.assign(static_cast<size_t>(view.n_clusters()), kAbsent);
  for (const DroppedCluster& dropped : selection.dropped) {
    if (dropped.level != level) continue;
    part.row_bias.at(static_cast<size_t>(dropped.cluster)) = std::log(static_cast<float>(view.n_rows(dropped.cluster)));
  }
  for (int32_t i = 0; i < static_cast<int32_t>(part.row_bias.size()); ++i) {
    if (part.row_bias[static_cast<size_t>(i)] != kAbsent) append_range(part.ranges, {i, i + 1});
  }
  return part;
}

}  // namespace

std::vector<AttendPart> context_parts(const HeadView& head, const Selection& selection, Rest rest,
                                      std::span<const int64_t> visible_tokens) {
  std::vector<AttendPart> parts{row_part(head, selection, visible_tokens)};
  if (rest == Rest::drop || selection.dropped.empty()) return parts;
  for (int32_t level = 0; level < static_cast<int32_t>(head.levels.size()); ++level) {
    parts.push_back(mean_part(head, selection, level));
  }
  return parts;
}

void attend_context(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
                    float softmax_scale, std::span<const int64_t> visible_tokens, AttentionState& state) {
  const AttendWork work{queries, context_parts(head, selection, rest, visible_tokens)};
  attend_parts({&work, 1}, softmax_scale, {&state, 1});
}

}  // namespace squeeze
