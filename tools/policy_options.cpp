// Selection rules from the command line.
#include "tools/policy_options.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "lib/attention/policy.hpp"

namespace squeeze {
namespace {

struct NamedValue {
  const char* policy;
  double value;
};

NamedValue chosen(const PolicyOptions& o) {
  if (o.dense) return {"dense", 0};
  if (o.threshold >= 0) return {"threshold", o.threshold};
  if (o.top_k > 0) return {"top-k", static_cast<double>(o.top_k)};
  if (o.top_p > 0) return {"top-p", o.top_p};
  return {"sparsity", o.sparsity};
}

}  // namespace

std::string PolicyOptions::describe() const {
  const NamedValue choice = chosen(*this);
  return dense ? choice.policy : fmt::format("{} {}", choice.policy, choice.value);
}

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
  rules->require_option(0, 1);
  app.add_option("--rest", options.rest, "Clusters that are not read: drop them, or count them at their means")
      ->check(CLI::IsMember({"drop", "mean"}))
      ->capture_default_str();
}

Policy make_policy(const PolicyOptions& options, const Calibration& calibration, float softmax_scale) {
  const NamedValue choice = chosen(options);
  return make_policy(choice.policy, {choice.value, &calibration, softmax_scale});
}

}  // namespace squeeze
