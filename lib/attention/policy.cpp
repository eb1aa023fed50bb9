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

// `set` completes a rule that holds the upper stages' thresholds.
template <class Set>
Rules pruned_rules(const Calibration& calibration, const Set& set) {
  const auto own = std::make_shared<const Calibration>(calibration);
  return [own, set](int, int, const HeadView&, int64_t n_query_tokens, SelectionRule& rule) {
    rule.thresholds = pruning(*own, n_query_tokens, std::move(rule.thresholds));
    rule.group.select = own->gqa;
    set(rule);
  };
}

Rules sparsity_rules(const Calibration& calibration, double sparsity) {
  if (!(sparsity >= 0 && sparsity < 1)) fail("sparsity: expected a value from 0 to below 1, found {}", sparsity);
  const auto own = std::make_shared<const Calibration>(calibration);
  return [own, sparsity](int, int, const HeadView&, int64_t n_query_tokens, SelectionRule& rule) {
    rule.rule = Rule::threshold;
    rule.thresholds = own->thresholds(sparsity, n_query_tokens, std::move(rule.thresholds));
    rule.group.select = own->gqa;
  };
}

Rules top_k_rules(const Calibration& calibration, int64_t n_keys) {
  if (n_keys < 1) fail("top-k: expected at least one key, found {}", n_keys);
  const auto own = std::make_shared<const Calibration>(calibration);
  return [own, n_keys](int, int, const HeadView& head, int64_t n_query_tokens, SelectionRule& rule) {
    const double share = static_cast<double>(n_keys) / static_cast<double>(std::max<int64_t>(1, head.n_clustered()));
    rule.rule = Rule::top_k;
    rule.thresholds = own->thresholds(std::max(0.0, 1 - share), n_query_tokens, std::move(rule.thresholds));
    rule.top_k = n_keys;
    rule.group.select = own->gqa;
  };
}

Rules make_dense(const PolicyInputs&) { return dense_rules(); }

Rules make_sparsity(const PolicyInputs& inputs) {
  return sparsity_rules(calibration_of(inputs, "sparsity"), inputs.value);
}

// With nothing let through above, thresholds() prunes by the leaves alone.
Rules make_flat(const PolicyInputs& inputs) {
  Calibration flat = calibration_of(inputs, "flat");
  std::fill(flat.upper_keep.begin(), flat.upper_keep.end(), 0.0);
  return sparsity_rules(flat, inputs.value);
}

Rules make_threshold(const PolicyInputs& inputs) {
  const auto threshold = static_cast<float>(checked("threshold", inputs.value, 0, 1));
  return pruned_rules(calibration_of(inputs, "threshold"), [threshold](SelectionRule& rule) {
    rule.rule = Rule::threshold;
    rule.thresholds.push_back(threshold);
  });
}

Rules make_top_k(const PolicyInputs& inputs) {
  const double n_keys = checked("top-k", inputs.value, 1, std::numeric_limits<int32_t>::max());
  return top_k_rules(calibration_of(inputs, "top-k"), std::llround(n_keys));
}

Rules make_top_p(const PolicyInputs& inputs) {
  const double top_p = checked("top-p", inputs.value, 0, 1);
  return pruned_rules(calibration_of(inputs, "top-p"), [top_p](SelectionRule& rule) {
    rule.rule = Rule::top_p;
    rule.top_p = top_p;
  });
}

Rules make_budget(const PolicyInputs& inputs) {
  return budget_rules(calibration_of(inputs, "budget"), inputs.value, inputs.rest);
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
    {"quest", "keys in the best pages of 16 tokens: a share, or a number above 1", nullptr, make_quest},
    {"window", "most recent keys: a share, or a number above 1", nullptr, make_window},
    {"oracle", "keys with the largest true attention, an ideal: a share, or a number above 1", nullptr, make_oracle},
};

bool is_listed(int layer, const std::vector<int>& layers) {
  return std::find(layers.begin(), layers.end(), layer) != layers.end();
}

}  // namespace

Selection everything(const HeadView& head, Selection reused) {
  Selection selection = std::move(reused);
  selection.clear();
  append_range(selection.ranges, {head.n_sinks, static_cast<int32_t>(head.n_tokens() - head.n_window)});
  selection.n_keys = head.n_clustered();
  return selection;
}

Policy policy_of(Rules rules, float softmax_scale) {
  return [rules = std::move(rules), softmax_scale](int layer, int kv_head, const HeadView& head, TensorView queries,
                                                   int64_t n_query_tokens, LookupScratch& scratch) {
    SelectionRule& rule = scratch.rule;
    rule.clear();
    rules(layer, kv_head, head, n_query_tokens, rule);
    rule.group.size = queries.size(0) / n_query_tokens;
    return select(head, queries, softmax_scale, rule, scratch);
  };
}

Rules dense_rules() {
  return [](int, int, const HeadView&, int64_t, SelectionRule&) {};
}

Policy dense_policy() { return policy_of(dense_rules(), 0); }

Policy sparsity_policy(const Calibration& calibration, double sparsity, float softmax_scale) {
  return policy_of(sparsity_rules(calibration, sparsity), softmax_scale);
}

Policy rule_policy(const SelectionRule& rule, float softmax_scale) {
  return policy_of([rule](int, int, const HeadView&, int64_t, SelectionRule& own) { own = rule; }, softmax_scale);
}

Policy top_k_policy(const Calibration& calibration, int64_t n_keys, float softmax_scale) {
  return policy_of(top_k_rules(calibration, n_keys), softmax_scale);
}

Policy with_dense_layers(Policy policy, std::vector<int> layers) {
  if (layers.empty()) return policy;
  return [policy = std::move(policy), layers = std::move(layers)](int layer, int kv_head, const HeadView& head,
                                                                  TensorView queries, int64_t n_query_tokens,
                                                                  LookupScratch& scratch) {
    if (is_listed(layer, layers)) return everything(head, std::move(scratch.spare));
    return policy(layer, kv_head, head, queries, n_query_tokens, scratch);
  };
}

Rules with_dense_layers(Rules rules, std::vector<int> layers) {
  if (layers.empty()) return rules;
  return [rules = std::move(rules), layers = std::move(layers)](int layer, int kv_head, const HeadView& head,
                                                                int64_t n_query_tokens, SelectionRule& rule) {
    if (!is_listed(layer, layers)) rules(layer, kv_head, head, n_query_tokens, rule);
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

Policy make_policy(const std::string& name, const PolicyInputs& inputs) {
  const PolicyEntry& entry = find_policy(name);
  return entry.rules ? policy_of(entry.rules(inputs), inputs.softmax_scale) : entry.policy(inputs);
}

Rules make_rules(const std::string& name, const PolicyInputs& inputs) {
  const PolicyEntry& entry = find_policy(name);
  if (!entry.rules) fail("policy {} chooses keys one by one, which is done on the CPU only (--device cpu)", name);
  return entry.rules(inputs);
}

}  // namespace squeeze
