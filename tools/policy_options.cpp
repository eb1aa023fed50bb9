// Selection rules from the command line.
#include "tools/policy_options.hpp"

#include <CLI/CLI.hpp>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// A sparsity at which every upper level prunes, for the rules that have no sparsity of their own.
Thresholds upper_thresholds(const Calibration& calibration) {
  double keep = 1;
  for (const double level : calibration.upper_keep) keep = std::min(keep, level);
  return calibration.thresholds(1 - keep / 2, 1);
}

SelectionRule fixed_rule(const PolicyOptions& o, const Calibration& calibration) {
  SelectionRule rule;
  rule.thresholds = upper_thresholds(calibration);
  if (o.threshold >= 0) {
    rule.rule = Rule::threshold;
    rule.thresholds.back() = static_cast<float>(o.threshold);
  } else if (o.top_k > 0) {
    rule.rule = Rule::top_k;
    rule.top_k = o.top_k;
  } else {
    rule.rule = Rule::top_p;
    rule.top_p = o.top_p;
  }
  return rule;
}

}  // namespace

std::string PolicyOptions::describe() const {
  if (dense) return "dense";
  if (threshold >= 0) return fmt::format("threshold {}", threshold);
  if (top_k > 0) return fmt::format("top-k {}", top_k);
  if (top_p > 0) return fmt::format("top-p {}", top_p);
  return fmt::format("sparsity {}", sparsity);
}

void bind_policy(CLI::App& app, PolicyOptions& options) {
  auto* rules = app.add_option_group("selection", "What is read of the context (one of)");
  rules->add_option("--sparsity", options.sparsity, "Share of the clustered keys to skip, by calibrated thresholds")
      ->check(CLI::Range(0.0, 0.9999))->capture_default_str();
  rules->add_option("--threshold", options.threshold, "Keep clusters whose score exceeds T")
      ->check(CLI::Range(0.0, 1.0))->type_name("T");
  rules->add_option("--top-k", options.top_k, "Best clusters up to this many keys")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))->type_name("KEYS");
  rules->add_option("--top-p", options.top_p, "Best clusters up to this share of the estimated attention mass")
      ->check(CLI::Range(1e-6, 1.0))->type_name("P");
  rules->add_flag("--dense", options.dense, "Read everything");
  rules->require_option(0, 1);
  app.add_option("--rest", options.rest, "Clusters that are not read: drop them, or count them at their means")
      ->check(CLI::IsMember({"drop", "mean"}))->capture_default_str();
}

Policy make_policy(const PolicyOptions& o, const Calibration& calibration, float softmax_scale) {
  if (o.dense) return dense_policy();
  const bool fixed = o.threshold >= 0 || o.top_k > 0 || o.top_p > 0;
  if (!fixed) return sparsity_policy(calibration, o.sparsity, softmax_scale);
  return rule_policy(fixed_rule(o, calibration), softmax_scale);
}

}  // namespace squeeze
