// The bytes of each head: what it must read in any case, and its part of what is left.
#include "lib/attention/budget.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "lib/attention/lookup_scratch.hpp"
#include "lib/attention/usage.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr double kLeastFactor = 0.25, kLargestFactor = 4;  // of the average head's bytes for sketches and keys

// Keys that each upper level lets through.
std::vector<int64_t> keys_kept(const Calibration& calibration, const HeadView& head, std::vector<int64_t> reused) {
  std::vector<int64_t> keys = std::move(reused);
  keys.clear();
  for (size_t level = 0; level + 1 < head.levels.size(); ++level) {
    keys.push_back(std::llround(std::ceil(calibration.upper_keep[level] * static_cast<double>(head.n_clustered()))));
  }
  return keys;
}

}  // namespace

// By what gave the least divergence on the tuning documents (docs/accuracy.md, "How much for sketches?").
double sketch_share(const SketchView& sketches) { return sketches.group_dim == 8 ? 0.35 : 0.5; }

// As select_clusters: a level that lets everything through is not scored.
double fixed_bytes(std::span<const double> upper_keep, const HeadView& head, Rest rest) {
  auto bytes = static_cast<double>(pinned_bytes(head));
  if (head.sketches.present()) bytes += static_cast<double>(head.sketches.codebook_bytes());
  double in_play = 1;  // share of this level's clusters
  for (size_t i = 0; i < head.levels.size(); ++i) {
    const LevelView& level = head.levels[i];
    const bool is_leaf = i + 1 == head.levels.size();
    const double keep = is_leaf ? 0 : upper_keep[i];
    if (!is_leaf && keep >= 1) continue;
    const double scored = in_play * static_cast<double>(level.n_clusters());
    bytes += scored * static_cast<double>(centroid_bytes(level));
    if (rest == Rest::mean) {
      bytes += scored * (is_leaf ? 1 : 1 - keep / in_play) * static_cast<double>(mean_bytes(level));
    }
    in_play = std::min(in_play, keep);
  }
  return bytes;
}

double least_budget(const Calibration& calibration, const HeadView& head, Rest rest) {
  if (head.levels.empty()) return 0;
  return fixed_bytes(calibration.upper_keep, head, rest) / static_cast<double>(head.n_tokens() * kv_bytes(head));
}

Rules budget_rules(const Calibration& calibration, double budget, Rest rest) {
  if (!(budget > 0 && budget <= 1))
    fail("budget: expected a share of the KV bytes above 0 and up to 1, found {}", budget);
  const auto own = std::make_shared<const Calibration>(calibration);
  return
      [own, budget, rest](int layer, int kv_head, const HeadView& head, int64_t n_query_tokens, SelectionRule& rule) {
        if (head.n_clustered() == 0 || budget >= 1) return;
        if (head.levels.empty()) {
          fail("this context has {} clustered tokens but no clusters: build an index or use the dense policy",
               head.n_clustered());
        }
        const auto dense = static_cast<double>(head.n_tokens() * kv_bytes(head));
        const double fixed = fixed_bytes(own->upper_keep, head, rest);
        const double left = budget * dense - fixed;
        if (left <= 0) {
          fail(
              "budget: {:.2f}% of the KV bytes is less than the {:.2f}% that pinned tokens and centroids cost; ask for "
              "more, "
              "or build an index with a smaller window or fewer leaves",
              100 * budget, 100 * fixed / dense);
        }
        const double share = std::min(1.0, left / static_cast<double>(head.n_clustered() * kv_bytes(head)));
        const double factor =
            std::clamp(own->nearest(n_query_tokens).shares.factor(share, layer, kv_head), kLeastFactor, kLargestFactor);
        rule.rule = Rule::bytes;
        rule.keep_keys = keys_kept(*own, head, std::move(rule.keep_keys));
        rule.bytes = fixed + left * factor;
        rule.sketch_share = sketch_share(head.sketches);
        rule.rest = rest;
        rule.group.select = own->gqa;
      };
}

Policy budget_policy(const Calibration& calibration, double budget, Rest rest, float softmax_scale) {
  return policy_of(budget_rules(calibration, budget, rest), softmax_scale);
}

}  // namespace squeeze
