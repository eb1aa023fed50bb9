// The policies that need no file of their own, and the table of all.
#include "lib/attention/policy.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "lib/attention/budget.hpp"
#include "lib/attention/lookup_scratch.hpp"
#include "lib/attention/oracle.hpp"
#include "lib/attention/partition.hpp"
#include "lib/attention/quest.hpp"
#include "lib/attention/window.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// Applies a rule; a head without clustered rows (a plain dump as context) has nothing to look up.
Selection select(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule,
                 LookupScratch& scratch) {
  if (head.n_clustered() == 0 || rule.rule == Rule::all) return everything(head, std::move(scratch.spare));
  if (head.levels.empty()) {
    fail("this context has {} clustered tokens but no clusters: build an index or use the dense policy",
         head.n_clustered());
  }
  return select_clusters(head, queries, softmax_scale, rule, scratch);
}

double checked(const char* option, double value, double low, double high) {
  if (!(value >= low && value <= high)) fail("{}: expected a value from {} to {}, found {}", option, low, high, value);
  return value;
}

const Calibration& calibration_of(const PolicyInputs& inputs, const char* option) {
  if (!inputs.calibration) fail("{}: this context has no calibration; build an index with squeeze-build", option);
  return *inputs.calibration;
}

// A rule whose target says nothing of the share of keys. Clusters alone: nothing is pruned above the leaves. With
// sketches the upper stages prune as calibrated: what they let through is what sketches are read of.
Thresholds pruning(const Calibration& calibration, int64_t n_query_tokens, Thresholds reused) {
  if (calibration.sketches) return calibration.pruning(n_query_tokens, std::move(reused));
  reused.assign(calibration.upper_keep.size(), -std::numeric_limits<float>::infinity());
  return reused;
}

// n_query_tokens x group size = rows.
QueryGroup group_of(const Calibration& calibration, TensorView queries, int64_t n_query_tokens) {
  return {calibration.gqa, queries.size(0) / n_query_tokens};
}

// `set` completes a rule that holds the upper stages' thresholds.
template <class Set>
Policy pruned_policy(const Calibration& calibration, float softmax_scale, const Set& set) {
  const auto own = std::make_shared<const Calibration>(calibration);
  return [own, softmax_scale, set](int, int, const HeadView& head, TensorView queries, int64_t n_query_tokens,
                                   LookupScratch& scratch) {
    SelectionRule& rule = scratch.rule;
    rule.clear();
    rule.thresholds = pruning(*own, n_query_tokens, std::move(rule.thresholds));
    rule.group = group_of(*own, queries, n_query_tokens);
    set(rule);
    return select(head, queries, softmax_scale, rule, scratch);
  };
}

Policy make_dense(const PolicyInputs&) { return dense_policy(); }

Policy make_sparsity(const PolicyInputs& inputs) {
  return sparsity_policy(calibration_of(inputs, "sparsity"), inputs.value, inputs.softmax_scale);
}

// With nothing let through above, thresholds() prunes by the leaves alone.
Policy make_flat(const PolicyInputs& inputs) {
  Calibration flat = calibration_of(inputs, "flat");
  std::fill(flat.upper_keep.begin(), flat.upper_keep.end(), 0.0);
  return sparsity_policy(flat, inputs.value, inputs.softmax_scale);
}

Policy make_threshold(const PolicyInputs& inputs) {
  const auto threshold = static_cast<float>(checked("threshold", inputs.value, 0, 1));
  return pruned_policy(calibration_of(inputs, "threshold"), inputs.softmax_scale, [threshold](SelectionRule& rule) {
    rule.rule = Rule::threshold;
    rule.thresholds.push_back(threshold);
  });
}

Policy make_top_k(const PolicyInputs& inputs) {
  const double n_keys = checked("top-k", inputs.value, 1, std::numeric_limits<int32_t>::max());
  return top_k_policy(calibration_of(inputs, "top-k"), std::llround(n_keys), inputs.softmax_scale);
}

Policy make_top_p(const PolicyInputs& inputs) {
  const double top_p = checked("top-p", inputs.value, 0, 1);
  return pruned_policy(calibration_of(inputs, "top-p"), inputs.softmax_scale, [top_p](SelectionRule& rule) {
    rule.rule = Rule::top_p;
    rule.top_p = top_p;
  });
}

Policy make_budget(const PolicyInputs& inputs) {
  return budget_policy(calibration_of(inputs, "budget"), inputs.value, inputs.rest, inputs.softmax_scale);
}

Policy make_quest(const PolicyInputs& inputs) { return quest_policy(inputs.value, inputs.softmax_scale); }
Policy make_window(const PolicyInputs& inputs) { return window_policy(inputs.value); }
Policy make_oracle(const PolicyInputs& inputs) { return oracle_policy(inputs.value, inputs.softmax_scale); }

constexpr PolicyEntry kPolicies[] = {
    {"dense", "", make_dense},
    {"sparsity", "share of the clustered keys that is not read, by calibrated thresholds", make_sparsity},
    {"flat", "as sparsity, by the leaves alone: all of them are scored", make_flat},
    {"threshold", "clusters with a higher score are read", make_threshold},
    {"top-k", "number of clustered keys read per KV head", make_top_k},
    {"top-p", "estimated share of the attention to clustered keys that is read", make_top_p},
    {"budget", "share of the KV bytes that is read, index bytes included", make_budget},
    {"quest", "keys in the best pages of 16 tokens: a share, or a number above 1", make_quest, false},
    {"window", "most recent keys: a share, or a number above 1", make_window, false},
    {"oracle", "keys with the largest true attention, an ideal: a share, or a number above 1", make_oracle, false},
};

}  // namespace

Selection everything(const HeadView& head, Selection reused) {
  Selection selection = std::move(reused);
  selection.clear();
  append_range(selection.ranges, {head.n_sinks, static_cast<int32_t>(head.n_tokens() - head.n_window)});
  selection.n_keys = head.n_clustered();
  return selection;
}

Policy dense_policy() {
  return [](int, int, const HeadView& head, TensorView, int64_t, LookupScratch& scratch) {
    return everything(head, std::move(scratch.spare));
  };
}

Policy sparsity_policy(const Calibration& calibration, double sparsity, float softmax_scale) {
  if (!(sparsity >= 0 && sparsity < 1)) fail("sparsity: expected a value from 0 to below 1, found {}", sparsity);
  const auto own = std::make_shared<const Calibration>(calibration);
  return [own, sparsity, softmax_scale](int, int, const HeadView& head, TensorView queries, int64_t n_query_tokens,
                                        LookupScratch& scratch) {
    SelectionRule& rule = scratch.rule;
    rule.clear();
    rule.rule = Rule::threshold;
    rule.thresholds = own->thresholds(sparsity, n_query_tokens, std::move(rule.thresholds));
    rule.group = group_of(*own, queries, n_query_tokens);
    return select(head, queries, softmax_scale, rule, scratch);
  };
}

Policy rule_policy(const SelectionRule& rule, float softmax_scale) {
  return [rule, softmax_scale](int, int, const HeadView& head, TensorView queries, int64_t n_query_tokens,
                               LookupScratch& scratch) {
    SelectionRule& own = scratch.rule;
    own = rule;
    own.group.size = queries.size(0) / n_query_tokens;
    return select(head, queries, softmax_scale, own, scratch);
  };
}

Policy top_k_policy(const Calibration& calibration, int64_t n_keys, float softmax_scale) {
  if (n_keys < 1) fail("top-k: expected at least one key, found {}", n_keys);
  const auto own = std::make_shared<const Calibration>(calibration);
  return [own, n_keys, softmax_scale](int, int, const HeadView& head, TensorView queries, int64_t n_query_tokens,
                                      LookupScratch& scratch) {
    const double share = static_cast<double>(n_keys) / static_cast<double>(std::max<int64_t>(1, head.n_clustered()));
    SelectionRule& rule = scratch.rule;
    rule.clear();
    rule.rule = Rule::top_k;
    rule.thresholds = own->thresholds(std::max(0.0, 1 - share), n_query_tokens, std::move(rule.thresholds));
    rule.top_k = n_keys;
    rule.group = group_of(*own, queries, n_query_tokens);
    return select(head, queries, softmax_scale, rule, scratch);
  };
}

Policy with_dense_layers(Policy policy, std::vector<int> layers) {
  if (layers.empty()) return policy;
  return [policy = std::move(policy), layers = std::move(layers)](int layer, int kv_head, const HeadView& head,
                                                                  TensorView queries, int64_t n_query_tokens,
                                                                  LookupScratch& scratch) {
    const bool is_dense = std::find(layers.begin(), layers.end(), layer) != layers.end();
    if (is_dense) return everything(head, std::move(scratch.spare));
    return policy(layer, kv_head, head, queries, n_query_tokens, scratch);
  };
}

std::span<const PolicyEntry> policies() { return kPolicies; }

const PolicyEntry& find_policy(const std::string& name) {
  std::vector<std::string> names;
  for (const PolicyEntry& entry : policies()) {
    if (name == entry.name) return entry;
    names.push_back(entry.name);
  }
  fail("unknown policy '{}': expected one of {}", name, fmt::join(names, ", "));
}

Policy make_policy(const std::string& name, const PolicyInputs& inputs) { return find_policy(name).make(inputs); }

}  // namespace squeeze
