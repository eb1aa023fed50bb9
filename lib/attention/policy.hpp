// Policies: what a block of queries reads of one KV head of the context. Dense, squeezed and every baseline are one.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "lib/attention/lookup.hpp"

namespace squeeze {

// queries: f32 [group_size x n_query_tokens, head_dim]. Called from several threads at once, each with a scratch of its
// own; the selection takes the memory of scratch.spare.
using Policy = std::function<Selection(int layer, int kv_head, const HeadView& head, TensorView queries,
                                       int64_t n_query_tokens, LookupScratch& scratch)>;

// The policies that are a rule of lookup.hpp for each head: what select_clusters applies on the CPU, and the kernels on
// a CUDA device. Sets `rule`, which is a cleared one, but for the size of its group.
using Rules =
    std::function<void(int layer, int kv_head, const HeadView& head, int64_t n_query_tokens, SelectionRule& rule)>;
Policy policy_of(Rules rules, float softmax_scale);

Rules dense_rules();

// Every clustered row, nothing scored. reused: an old selection, for its memory.
Selection everything(const HeadView& head, Selection reused = {});

Policy dense_policy();
// The paper's rule with calibrated thresholds for the block's size. Keeps a copy of the calibration.
Policy sparsity_policy(const Calibration& calibration, double sparsity, float softmax_scale);
// One fixed rule for every head.
Policy rule_policy(const SelectionRule& rule, float softmax_scale);
// The best clusters (keys, where there are sketches) as long as they hold at most `n_keys` keys; upper stages prune as
// calibrated for that share of the keys.
Policy top_k_policy(const Calibration& calibration, int64_t n_keys, float softmax_scale);

// The same, but everything in the listed layers.
Policy with_dense_layers(Policy policy, std::vector<int> layers);
Rules with_dense_layers(Rules rules, std::vector<int> layers);

// What the policies of the table below are made from.
struct PolicyInputs {
  double value = 0;                          // of the option that names the policy, see PolicyEntry::value
  const Calibration* calibration = nullptr;  // of the index; copied; only "dense" does without
  float softmax_scale = 0;
  Rest rest = Rest::drop;
};

// A new baseline is one file with a Policy (or Rules) and one line in the table.
struct PolicyEntry {
  const char* name;                            // "sparsity": --policy sparsity:VALUE
  const char* value;                           // what the value means; empty if it takes none
  Rules (*rules)(const PolicyInputs& inputs);  // null: not a rule, but
  Policy (*policy)(const PolicyInputs& inputs) =
      nullptr;  // one that chooses keys: Rest::mean finds no cluster to count

  bool drops_clusters() const { return rules != nullptr; }
};
std::span<const PolicyEntry> policies();
// Throws, listing the names, if there is no such policy.
const PolicyEntry& find_policy(const std::string& name);
// Throws, too, if the value is out of range.
Policy make_policy(const std::string& name, const PolicyInputs& inputs);
// Throws, too, if the policy is not a rule.
Rules make_rules(const std::string& name, const PolicyInputs& inputs);

}  // namespace squeeze
