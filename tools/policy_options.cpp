// Selection rules from the command line.
#include "tools/policy_options.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "lib/attention/policy.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

// "5%", "0.05", or bytes per token: the share is then known when the index is.
double parse_budget(const std::string& text) {
  const size_t unit = text.find_first_not_of("0123456789.");
  const bool percent = unit != std::string::npos && text.substr(unit) == "%";
  const std::optional<double> value = parse_bytes(percent ? text.substr(0, unit) : text);
  if (!value) fail_usage("--budget {}: expected a share such as 5% or bytes such as 64M", text);
  if (percent && *value > 100) fail_usage("--budget {}: a share must lie above 0 and be at most 100%", text);
  return percent ? *value / 100 : *value;
}

// Above 1 a budget is in bytes of all layers and heads.
NamedPolicy resolved(NamedPolicy policy, const KvIndex& index) {
  if (policy.name != "budget" || !(policy.value > 1)) return policy;
  return {policy.name, std::min(1.0, policy.value / static_cast<double>(index.kv_bytes()))};
}

NamedPolicy chosen(const PolicyOptions& o) {
  if (!o.policy.empty()) return parse_policy(o.policy);
  if (o.dense) return {"dense"};
  if (o.threshold >= 0) return {"threshold", o.threshold};
  if (o.top_k > 0) return {"top-k", static_cast<double>(o.top_k)};
  if (o.top_p > 0) return {"top-p", o.top_p};
  if (!o.budget.empty()) return {"budget", parse_budget(o.budget)};
  return {"sparsity", o.sparsity};
}

PolicyInputs inputs_of(const NamedPolicy& policy, Rest rest, const KvIndex& index) {
  return {policy.value, &index.calibration(), index.context().model.softmax_scale, rest};
}

void check_dense_layers(const PolicyOptions& options, const KvIndex& index) {
  for (const int layer : options.dense_layers) {
    if (layer >= index.context().model.n_layers) {
      fail_usage("--dense-layers {}: {} has layers 0 to {}", layer, index.path(), index.context().model.n_layers - 1);
    }
  }
}

bool takes_value(const PolicyEntry& entry) { return *entry.value != '\0'; }

}  // namespace

std::string NamedPolicy::describe() const {
  return takes_value(find_policy(name)) ? fmt::format("{} {}", name, value) : name;
}

NamedPolicy parse_policy(const std::string& text) {
  const size_t colon = text.find(':');
  NamedPolicy policy{text.substr(0, colon)};
  const auto known = std::ranges::find(policies(), policy.name, &PolicyEntry::name);
  if (known == policies().end()) fail_usage("--policy {}: expected one of {}", text, policy_names());
  if (!takes_value(*known)) {
    if (colon != std::string::npos) fail_usage("--policy {}: {} takes no value", text, policy.name);
    return policy;
  }
  const std::string value = colon == std::string::npos ? "" : text.substr(colon + 1);
  if (!CLI::detail::lexical_cast(value, policy.value)) {
    fail_usage("--policy {}: expected {}:VALUE ({}), found '{}'", text, policy.name, known->value, value);
  }
  return policy;
}

std::string policy_names() {
  std::string names;
  for (const PolicyEntry& entry : policies()) {
    names += fmt::format("{}{}{}", names.empty() ? "" : ", ", entry.name, takes_value(entry) ? ":VALUE" : "");
  }
  return names;
}

Policy make_policy(const NamedPolicy& policy, Rest rest, const KvIndex& index) {
  const NamedPolicy own = resolved(policy, index);
  return make_policy(own.name, inputs_of(own, rest, index));
}

std::string PolicyOptions::describe() const { return chosen(*this).describe(); }

void bind_policy(CLI::App& app, PolicyOptions& options) {
  auto* rules = app.add_option_group("selection", "What is read of the context (one of)");
  rules->add_option("--sparsity", options.sparsity, "Share of the clustered keys to skip, by calibrated thresholds")
      ->check(CLI::Range(0.0, 0.9999))
      ->capture_default_str();
  rules->add_option("--threshold", options.threshold, "Keep clusters whose score exceeds T")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("T");
  rules->add_option("--top-k", options.top_k, "Best clusters up to this many keys")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("KEYS");
  rules->add_option("--top-p", options.top_p, "Best clusters up to this share of the estimated attention mass")
      ->check(CLI::Range(1e-6, 1.0))
      ->type_name("P");
  rules
      ->add_option("--budget", options.budget,
                   "Read this share of the context's KV bytes, or bytes per token, index included")
      ->type_name("5%|BYTES");
  rules->add_flag("--dense", options.dense, "Read everything");
  rules->add_option("--policy", options.policy, "Any policy by its name, baselines included: " + policy_names())
      ->type_name("NAME[:VALUE]");
  rules->require_option(0, 1);
  app.add_option("--rest", options.rest, "Keys that are not read: drop them, or count them at their clusters' means")
      ->check(CLI::IsMember({"drop", "mean"}))
      ->capture_default_str();
  app.add_option("--dense-layers", options.dense_layers, "Layers that read everything, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(0, 1 << 16));
  app.add_option("--query-block", options.query_block, "Prompt tokens that share a selection (0: a whole step)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->capture_default_str();
}

Rest rest_of(const std::string& policy, const std::string& rest) {
  return rest == "mean" && find_policy(policy).drops_clusters() ? Rest::mean : Rest::drop;
}

Rest PolicyOptions::rest_mode() const { return rest_of(chosen(*this).name, rest); }

Policy make_policy(const PolicyOptions& options, const KvIndex& index) {
  check_dense_layers(options, index);
  return with_dense_layers(make_policy(chosen(options), options.rest_mode(), index), options.dense_layers);
}

Rules make_rules(const PolicyOptions& options, const KvIndex& index) {
  check_dense_layers(options, index);
  const NamedPolicy named = resolved(chosen(options), index);
  if (!find_policy(named.name).rules || named.name == "top-p") {
    fail_usage("{}: selects on the CPU only (--device cpu)", named.describe());
  }
  return with_dense_layers(make_rules(named.name, inputs_of(named, options.rest_mode(), index)), options.dense_layers);
}

}  // namespace squeeze
