// The options that choose what is read of the context, and the policy that they name.
#pragma once

#include <string>
#include <vector>

#include "formats/kv_index.hpp"
#include "lib/attention/context_attention.hpp"

namespace CLI {
class App;
}

namespace squeeze {

// A policy by its name in lib/attention/policy.hpp's table, and its value: "quest:0.05", "dense".
struct NamedPolicy {
  std::string name;
  double value = 0;  // 0 if the policy takes none

  std::string describe() const;  // "quest 0.05", "dense"
};

// NAME[:VALUE]. Throws (bad usage) if there is no such policy, or its value is missing, too much or not a number.
NamedPolicy parse_policy(const std::string& text);
// "dense, sparsity:VALUE, ...": every policy there is, for help texts.
std::string policy_names();
// rest: "drop" or "mean". A policy that drops no clusters has nothing to count at its mean.
Rest rest_of(const std::string& policy, const std::string& rest);
Policy make_policy(const NamedPolicy& policy, Rest rest, const KvIndex& index);

struct PolicyOptions {
  std::string policy;  // NAME[:VALUE]; empty: not given
  double sparsity = 0.9;
  double threshold = -1;  // below 0: not given
  int64_t top_k = 0;      // 0: not given
  double top_p = 0;       // 0: not given
  std::string budget;     // a share of the KV bytes, or bytes per token; empty: not given
  bool dense = false;
  std::string rest = "mean";
  std::vector<int> dense_layers;
  int64_t query_block = 4;

  Rest rest_mode() const;
  std::string describe() const;  // "sparsity 0.9", "dense", ...
};

void bind_policy(CLI::App& app, PolicyOptions& options);

// The policy that the options name. Throws as parse_policy and check_rest do.
Policy make_policy(const PolicyOptions& options, const KvIndex& index);
// The same as rules, for a CUDA device. Throws (bad usage), too, if the policy is none.
Rules make_rules(const PolicyOptions& options, const KvIndex& index);

}  // namespace squeeze
