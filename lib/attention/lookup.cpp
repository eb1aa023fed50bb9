// Selection: the descent through the stages, and the rules that keep or drop at the last one.
#include "lib/attention/lookup.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "lib/attention/lookup_scratch.hpp"
#include "lib/attention/partition.hpp"
#include "lib/attention/usage.hpp"
#include "lib/core/error.hpp"
#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void check_rule(const HeadView& head, const SelectionRule& rule) {
  const size_t n_stages = head.n_stages();
  const size_t n_thresholds = rule.thresholds.size();
  const bool by_threshold = rule.rule == Rule::threshold;
  if (by_threshold ? n_thresholds != n_stages
                   : (n_thresholds > n_stages || (n_thresholds && n_thresholds + 1 < n_stages))) {
    fail("an index of {} stages needs as many thresholds, found {}", n_stages, n_thresholds);
  }
  if (!rule.keep_keys.empty() && rule.keep_keys.size() + 1 != head.levels.size()) {
    fail("an index of {} levels needs {} sizes to keep, found {}", head.levels.size(), head.levels.size() - 1,
         rule.keep_keys.size());
  }
  for (const float t : rule.thresholds) {
    if (std::isnan(t)) fail("a score threshold must be a number, found NaN");
  }
  if (rule.rule == Rule::top_k && rule.top_k < 0) fail("top-k must not be negative, found {}", rule.top_k);
  if (rule.rule == Rule::top_p && !(rule.top_p >= 0 && rule.top_p <= 1)) {
    fail("top-p must lie in [0, 1], found {}", rule.top_p);
  }
}

bool keeps_everything(const SelectionRule& rule) {
  return rule.rule == Rule::all || (rule.rule == Rule::threshold && rule.thresholds.back() == -kInfinity) ||
         (rule.rule == Rule::top_p && rule.top_p >= 1);
}

float upper_threshold(const SelectionRule& rule, size_t stage) {
  return rule.rule == Rule::all || rule.thresholds.empty() ? -kInfinity : rule.thresholds[stage];
}

// What a byte budget leaves, to be spent on sketches and keys.
class Purse {
 public:
  Purse(const Descent& descent, const SelectionRule& rule, int64_t n_dropped) : head_(descent.head()) {
    const LevelView& level = descent.level();
    const int64_t index = descent.n_scored() * centroid_bytes(level);
    const int64_t means = rule.rest == Rest::mean ? (n_dropped + descent.in_play().size()) * mean_bytes(level) : 0;
    left_ = rule.bytes - static_cast<double>(pinned_bytes(head_) + index + means);
    if (head_.sketches.present()) left_ -= static_cast<double>(head_.sketches.codebook_bytes());
  }
  int64_t n_sketches(double share, int64_t n_keys) const {
    const double wanted = share * left_ / static_cast<double>(head_.sketches.key_bytes());
    return static_cast<int64_t>(std::clamp(wanted, 0.0, kMaxSketched * static_cast<double>(n_keys)));
  }
  void pay_sketches(int64_t n) { left_ -= static_cast<double>(n * head_.sketches.key_bytes()); }
  int64_t n_keys() const { return static_cast<int64_t>(std::max(0.0, left_ / static_cast<double>(kv_bytes(head_)))); }

 private:
  const HeadView& head_;
  double left_;
};

// The upper levels, then the leaves, then the sketches.
class Lookup {
 public:
  Lookup(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule,
         LookupScratch& scratch)
      : rule_(rule),
        descent_(scratch.descent),
        keys_(scratch.keys),
        keeper_(scratch.keeper),
        selection_(std::move(scratch.spare)) {
    selection_.clear();
    descent_.start(head, queries, softmax_scale, {queries.size(0), rule.group});
    check_rule(head, rule);
  }

  Selection run() {
    while (!descent_.at_leaves()) prune_level();
    if (descent_.head().sketches.present() && sketches_wanted()) {
      select_keys();
    } else {
      select_leaves();
    }
    selection_.n_scored = descent_.n_scored();
    descent_.dropped().move_to(selection_);
    return std::move(selection_);
  }

 private:
  void prune_level() {
    const auto level = static_cast<size_t>(descent_.level_number());
    if (rule_.rule != Rule::all && !rule_.keep_keys.empty()) {
      if (rule_.keep_keys[level] >= descent_.n_keys_in_play()) return descent_.descend();
      const BlockScores& scores = descent_.score();
      return descend(keeper_.best(scores, descent_.sizes(), rule_.keep_keys[level]));
    }
    const float threshold = upper_threshold(rule_, level);
    if (threshold == -kInfinity) return descent_.descend();
    descend(keeper_.above(descent_.score(), threshold));
  }

  void descend(const std::vector<char>& keep) {
    n_dropped_ += std::count(keep.begin(), keep.end(), char{0});
    descent_.descend(keep);
  }

  // A leaf threshold of -infinity above the sketches: the last threshold is one of leaves.
  bool sketches_wanted() const {
    if (keeps_everything(rule_)) return false;
    return rule_.rule == Rule::bytes || upper_threshold(rule_, descent_.head().levels.size() - 1) > -kInfinity;
  }

  // What the last stage keeps; sizes as in keeper.hpp. top_k: also what a byte budget pays for.
  const std::vector<char>& kept(const BlockScores& scores, std::span<const float> sizes, int64_t top_k) {
    if (rule_.rule == Rule::threshold) return keeper_.above(scores, rule_.thresholds.back());
    if (rule_.rule == Rule::top_p) return keeper_.mass(scores, sizes, rule_.top_p);
    return keeper_.best(scores, sizes, top_k, rule_.rule == Rule::bytes);
  }

  // The candidates that are kept, ascending.
  std::span<const int32_t> kept_keys(const BlockScores& scores, int64_t top_k) {
    if (rule_.rule == Rule::top_k || rule_.rule == Rule::bytes) return keeper_.best_singles(scores, top_k);
    return keeper_.numbers(kept(scores, {}, top_k));
  }

  const std::vector<char>& kept_leaves() {
    if (keeps_everything(rule_)) return keeper_.all(descent_.in_play().size());
    const BlockScores& scores = descent_.score();
    const bool by_bytes = rule_.rule == Rule::bytes;
    const std::vector<char>& keep =
        kept(scores, descent_.sizes(), by_bytes ? Purse(descent_, rule_, n_dropped_).n_keys() : rule_.top_k);
    descent_.drop(keep);
    return keep;
  }

  void select_leaves() {
    const std::vector<char>& keep = kept_leaves();
    const LevelView& leaves = descent_.level();
    descent_.in_play().for_each([&](int64_t i, int32_t leaf) {
      if (keep[static_cast<size_t>(i)]) take({leaves.first_row[leaf], leaves.first_row[leaf + 1]});
    });
  }

  void select_keys() {
    const BlockScores& scores = descent_.score();
    const HeadView& head = descent_.head();
    int64_t top_k = rule_.top_k;
    std::optional<Purse> purse;
    if (rule_.rule == Rule::bytes) {
      purse.emplace(descent_, rule_, n_dropped_);
      const int64_t n_sketches = purse->n_sketches(rule_.sketch_share, descent_.n_keys_in_play());
      keys_.start(descent_, keeper_.best(scores, descent_.sizes(), n_sketches));
    } else {
      keys_.start(descent_, keeper_.above(scores, upper_threshold(rule_, head.levels.size() - 1)));
    }
    const int64_t n_candidates = keys_.rows().size();
    if (purse) {
      purse->pay_sketches(n_candidates);
      top_k = purse->n_keys();
    }
    const std::span<const int32_t> kept = kept_keys(keys_.score(), top_k);
    keys_.drop(kept);
    size_t next = 0;
    int32_t first = 0;  // of a run, among the candidates
    for (const RowRange& run : keys_.rows().runs()) {
      const int32_t end = first + run.end - run.begin;
      for (; next < kept.size() && kept[next] < end; ++next) {
        const int32_t row = run.begin + kept[next] - first;
        take({row, row + 1});
      }
      first = end;
    }
    selection_.n_sketched = n_candidates;
    selection_.index_bytes = n_candidates * head.sketches.key_bytes() + head.sketches.codebook_bytes();
  }

  void take(RowRange rows) {
    append_range(selection_.ranges, rows);
    selection_.n_keys += rows.end - rows.begin;
  }

  const SelectionRule& rule_;
  Descent& descent_;
  KeyStage& keys_;
  Keeper& keeper_;
  Selection selection_;
  int64_t n_dropped_ = 0;
};

// The largest score of any view, spread over all items of the stage; NaN elsewhere.
std::vector<float> spread(const BlockScores& scores, const ItemRuns& items, int64_t first, int64_t n) {
  std::vector<float> all(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
  items.for_each([&](int64_t i, int32_t item) {
    float best = -kInfinity;
    for (int64_t v = 0; v < scores.n_views(); ++v) best = std::max(best, scores.view(v)[static_cast<size_t>(i)]);
    all[static_cast<size_t>(item - first)] = best;
  });
  return all;
}

}  // namespace

void SelectionRule::clear() {
  thresholds.clear();
  keep_keys.clear();
  *this = {.thresholds = std::move(thresholds), .keep_keys = std::move(keep_keys)};
}

void Selection::clear() {
  ranges.clear();
  dropped.clear();
  rest_logits.clear();
  n_keys = n_scored = index_bytes = n_sketched = 0;
}

void Selection::reserve(const HeadView& head, int64_t n_rows) {
  ranges.reserve(max_ranges(head));
  if (head.levels.empty()) return;
  const int64_t n_leaves = head.levels.back().n_clusters();
  dropped.reserve(static_cast<size_t>(n_leaves));
  rest_logits.reserve(static_cast<size_t>(n_leaves * n_rows));
}

Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule,
                          LookupScratch& scratch) {
  return Lookup(head, queries, softmax_scale, rule, scratch).run();
}

Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule) {
  LookupScratch scratch;
  return select_clusters(head, queries, softmax_scale, rule, scratch);
}

std::vector<std::vector<float>> stage_scores(const HeadView& head, TensorView queries, float softmax_scale,
                                             const Thresholds& thresholds, const QueryGroup& group) {
  Descent descent;
  descent.start(head, queries, softmax_scale, {queries.size(0), group});
  if (!thresholds.empty() && thresholds.size() + 1 < head.n_stages()) {
    fail("an index of {} stages needs {} upper thresholds, found {}", head.n_stages(), head.n_stages() - 1,
         thresholds.size());
  }
  // The last stage prunes nothing and may be without a threshold.
  const auto threshold = [&](size_t stage) { return stage < thresholds.size() ? thresholds[stage] : -kInfinity; };
  Keeper keeper;
  std::vector<std::vector<float>> result;
  while (true) {
    const BlockScores& scores = descent.score();
    result.push_back(spread(scores, descent.in_play(), 0, descent.level().n_clusters()));
    const std::vector<char>& keep = keeper.above(scores, threshold(result.size() - 1));
    if (!descent.at_leaves()) {
      descent.descend(keep);
      continue;
    }
    if (head.sketches.present()) {
      KeyStage keys;
      keys.start(descent, keep);
      result.push_back(spread(keys.score(), keys.rows(), head.n_sinks, head.n_clustered()));
    }
    return result;
  }
}

}  // namespace squeeze
