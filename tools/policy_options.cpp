// Selection rules from the command line.
#include "tools/policy_options.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "lib/attention/policy.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

NamedPolicy chosen(const PolicyOptions& o) {
  if (!o.policy.empty()) return parse_policy(o.policy);
  if (o.dense) return {"dense"};
  if (o.threshold >= 0) return {"threshold", o.threshold};
  if (o.top_k > 0) return {"top-k", static_cast<double>(o.top_k)};
  if (o.top_p > 0) return {"top-p", o.top_p};
  return {"sparsity", o.sparsity};
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

void check_rest(const NamedPolicy& policy, Rest rest) {
  if (rest == Rest::mean && !find_policy(policy.name).drops_clusters) {
    fail_usage("--rest mean counts dropped clusters, but {} drops none; leave it out", policy.name);
  }
}

Policy make_policy(const NamedPolicy& policy, const Calibration& calibration, float softmax_scale) {
  return make_policy(policy.name, {policy.value, &calibration, softmax_scale});
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
  rules->add_flag("--dense", options.dense, "Read everything");
  rules->add_option("--policy", options.policy, "Any policy by its name, baselines included: " + policy_names())
      ->type_name("NAME[:VALUE]");
  rules->require_option(0, 1);
  app.add_option("--rest", options.rest, "Clusters that are not read: drop them, or count them at their means")
      ->check(CLI::IsMember({"drop", "mean"}))
      ->capture_default_str();
}

Policy make_policy(const PolicyOptions& options, const Calibration& calibration, float softmax_scale) {
  const NamedPolicy choice = chosen(options);
  check_rest(choice, options.rest_mode());
  return make_policy(choice, calibration, softmax_scale);
}

}  // namespace squeeze
