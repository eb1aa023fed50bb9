// Selection: the descent through the levels, and the rules that keep or drop leaves.
#include "lib/attention/lookup.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/attention/descent.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void check_rule(const HeadView& head, const SelectionRule& rule) {
  const size_t n_levels = head.levels.size();
  const size_t n_thresholds = rule.thresholds.size();
  const bool by_threshold = rule.rule == Rule::threshold;
  if (by_threshold ? n_thresholds != n_levels
                   : (n_thresholds > n_levels || (n_thresholds && n_thresholds + 1 < n_levels))) {
    fail("an index of {} levels needs as many thresholds, found {}", n_levels, n_thresholds);
  }
  for (const float t : rule.thresholds) {
    if (std::isnan(t)) fail("a score threshold must be a number, found NaN");
  }
  if (rule.rule == Rule::top_k && rule.top_k < 0) fail("top-k must not be negative, found {}", rule.top_k);
  if (rule.rule == Rule::top_p && !(rule.top_p >= 0 && rule.top_p <= 1)) {
    fail("top-p must lie in [0, 1], found {}", rule.top_p);
  }
}

// Calls take(i) for the best leaves, score descending, until it returns false.
template <class Take>
void for_best(const std::vector<float>& scores, const Take& take) {
  const auto worse = [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)];
    const float y = scores[static_cast<size_t>(b)];
    return x < y || (x == y && a > b);
  };
  std::vector<int32_t> heap(scores.size());
  for (size_t i = 0; i < heap.size(); ++i) heap[i] = static_cast<int32_t>(i);
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty() && take(static_cast<size_t>(heap.front()))) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    heap.pop_back();
  }
}

// Which of the scored leaves the rule keeps; sizes: N_i of the same leaves.
std::vector<char> kept_leaves(const std::vector<float>& scores, const std::vector<int64_t>& sizes,
                              const SelectionRule& rule) {
  std::vector<char> keep(scores.size(), 0);
  if (rule.rule == Rule::threshold) {
    for (size_t i = 0; i < keep.size(); ++i) keep[i] = scores[i] > rule.thresholds.back();
  } else if (rule.rule == Rule::top_k) {
    int64_t n_keys = 0;
    for_best(scores, [&](size_t i) {
      const bool fits = n_keys + sizes[i] <= rule.top_k || (n_keys == 0 && rule.top_k > 0);
      if (fits) keep[i] = 1;
      n_keys += sizes[i];
      return fits;
    });
  } else {
    double mass = 0;
    for_best(scores, [&](size_t i) {
      if (mass >= rule.top_p) return false;
      keep[i] = 1;
      mass += static_cast<double>(sizes[i]) * double{scores[i]};
      return true;
    });
  }
  return keep;
}

bool keeps_every_leaf(const SelectionRule& rule) {
  return rule.rule == Rule::all || (rule.rule == Rule::threshold && rule.thresholds.back() == -kInfinity) ||
         (rule.rule == Rule::top_p && rule.top_p >= 1);
}

void select_leaves(Descent& descent, const SelectionRule& rule, Selection& selection) {
  const LevelView& leaves = descent.level();
  std::vector<char> keep(static_cast<size_t>(descent.in_play().size()), 1);
  if (!keeps_every_leaf(rule)) {
    std::vector<int64_t> sizes;
    descent.in_play().for_each([&](int64_t, int32_t leaf) { sizes.push_back(leaves.n_rows(leaf)); });
    keep = kept_leaves(descent.score(), sizes, rule);
  }
  ClusterRuns rows;
  descent.in_play().for_each([&](int64_t i, int32_t leaf) {
    if (keep[static_cast<size_t>(i)]) {
      rows.add(leaves.first_row[leaf], leaves.first_row[leaf + 1]);
    } else {
      selection.dropped.push_back({descent.level_number(), leaf});
    }
  });
  selection.ranges = rows.runs();
  selection.n_keys = rows.size();
}

}  // namespace

Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule) {
  Descent descent(head, queries, softmax_scale);
  check_rule(head, rule);
  Selection selection;
  const bool prunes = rule.rule != Rule::all && !rule.thresholds.empty();
  while (!descent.at_leaves()) {
    const float threshold = prunes ? rule.thresholds[static_cast<size_t>(descent.level_number())] : -kInfinity;
    if (threshold == -kInfinity) {
      descent.descend();
      continue;
    }
    const std::vector<float>& scores = descent.score();
    descent.in_play().for_each([&](int64_t i, int32_t cluster) {
      if (scores[static_cast<size_t>(i)] <= threshold) selection.dropped.push_back({descent.level_number(), cluster});
    });
    descent.descend_above(threshold);
  }
  select_leaves(descent, rule, selection);
  selection.n_scored = descent.n_scored();
  return selection;
}

std::vector<std::vector<float>> cluster_scores(const HeadView& head, TensorView queries, float softmax_scale,
                                               const Thresholds& thresholds) {
  Descent descent(head, queries, softmax_scale);
  if (!thresholds.empty() && thresholds.size() + 1 < head.levels.size()) {
    fail("an index of {} levels needs {} upper thresholds, found {}", head.levels.size(), head.levels.size() - 1,
         thresholds.size());
  }
  std::vector<std::vector<float>> result;
  while (true) {
    const std::vector<float>& scores = descent.score();
    auto& spread =
        result.emplace_back(static_cast<size_t>(descent.level().n_clusters()), std::numeric_limits<float>::quiet_NaN());
    descent.in_play().for_each(
        [&](int64_t i, int32_t cluster) { spread[static_cast<size_t>(cluster)] = scores[static_cast<size_t>(i)]; });
    if (descent.at_leaves()) return result;
    descent.descend_above(thresholds.empty() ? -kInfinity : thresholds[result.size() - 1]);
  }
}

}  // namespace squeeze
