// The table of curves, and their replay.
#include "tools/report_curves.hpp"

#include <algorithm>
#include <string>

#include "lib/attention/budget.hpp"

namespace squeeze {
namespace {

constexpr double kSparsities[] = {0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99};
constexpr double kKeyShares[] = {0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01};
constexpr double kBudgets[] = {0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5};
constexpr double kFocusSparsity = 0.9;

struct CurveSpec {
  const char* label;
  const char* policy;  // of lib/attention/policy.hpp's table
  std::span<const double> values;
  Rest rest = Rest::drop;
  bool needs_stages = false;  // left out for an index whose leaves are all there is
};

constexpr CurveSpec kCurves[] = {
    {"Squeeze", "sparsity", kSparsities, Rest::mean},
    {"Squeeze, rest drop", "sparsity", kSparsities},
    {"Squeeze, by budget", "budget", kBudgets, Rest::mean},
    {"Squeeze, by budget, rest drop", "budget", kBudgets},
    {"Leaves only", "flat", kSparsities, Rest::mean, true},
    {"Leaves only, rest drop", "flat", kSparsities, Rest::drop, true},
    {"Quest", "quest", kKeyShares},
    {"Recent window", "window", kKeyShares},
    {"Oracle (ideal)", "oracle", kKeyShares},
};

Curve curve_of(const std::string& label, const std::string& policy, Rest rest, std::span<const double> values) {
  Curve curve{label, policy, rest, {}};
  for (const double value : values) curve.points.push_back({value, {}, {}});
  return curve;
}

// One curve per chosen policy, its settings in the order in which they were given.
void add_chosen(const std::vector<NamedPolicy>& chosen, const std::string& rest, std::vector<Curve>& curves) {
  const auto n_standard = std::ssize(curves);
  for (const NamedPolicy& policy : chosen) {
    auto known = std::find_if(curves.begin() + n_standard, curves.end(),
                              [&](const Curve& curve) { return curve.policy == policy.name; });
    if (known == curves.end()) {
      known = curves.insert(known, curve_of("Chosen: " + policy.name, policy.name, rest_of(policy.name, rest), {}));
    }
    known->points.push_back({policy.value, {}, {}});
  }
}

// The budgets that every head of the index can be read with.
std::vector<double> possible_budgets(const KvIndex& index, Rest rest) {
  double least = 0;
  for (const std::vector<HeadView>& layer : index.view().layers) {
    for (const HeadView& head : layer) least = std::max(least, least_budget(index.calibration(), head, rest));
  }
  std::vector<double> budgets;
  for (const double budget : kBudgets) {
    if (budget > least * 1.01) budgets.push_back(budget);
  }
  return budgets;
}

Curves unmeasured(const KvIndex& index, const std::vector<NamedPolicy>& chosen, const std::string& rest) {
  const bool staged = index.options().levels.size() > 1 || index.options().sketches();
  Curves all;
  for (const CurveSpec& spec : kCurves) {
    if (!staged && spec.needs_stages) continue;
    all.curves.push_back(curve_of(spec.label, spec.policy, spec.rest, spec.values));
    if (spec.policy != std::string("budget")) continue;
    all.curves.back() = curve_of(spec.label, spec.policy, spec.rest, possible_budgets(index, spec.rest));
  }
  all.focus.point = static_cast<size_t>(std::ranges::find(kSparsities, kFocusSparsity) - kSparsities);
  if (!chosen.empty()) all.focus = {all.curves.size(), 0};
  add_chosen(chosen, rest, all.curves);
  return all;
}

}  // namespace

Curves measure_curves(const ReplaySource& source, const std::vector<NamedPolicy>& chosen, const std::string& rest) {
  const KvIndex& index = source.index;
  Curves all = unmeasured(index, chosen, rest);
  std::vector<ReplayRule> rules;
  for (const Curve& curve : all.curves) {
    for (const CurvePoint& point : curve.points) {
      const NamedPolicy policy{curve.policy, point.value};
      rules.push_back({make_policy(policy, curve.rest, index), curve.rest});
    }
  }
  std::vector<LayerMetrics> measured = replay_rules(source, rules);
  auto next = measured.begin();
  for (Curve& curve : all.curves) {
    for (CurvePoint& point : curve.points) {
      point.layers = std::move(*next++);
      point.total = pooled(point.layers);
    }
  }
  return all;
}

}  // namespace squeeze
