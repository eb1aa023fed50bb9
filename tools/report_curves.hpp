// The curves of the HTML report: policies over a range of settings, replayed.
#pragma once

#include <string>
#include <vector>

#include "tools/policy_options.hpp"
#include "tools/replay_report.hpp"

namespace squeeze {

struct CurvePoint {
  double value = 0;  // of the policy
  LayerMetrics layers;
  HeadMetrics total;
};

struct Curve {
  std::string label;
  std::string policy;
  Rest rest = Rest::drop;
  std::vector<CurvePoint> points;
};

// What the rest of the report looks at first.
struct CurveFocus {
  size_t curve = 0;
  size_t point = 0;
};

struct Curves {
  std::vector<Curve> curves;
  CurveFocus focus;
};

// The table's curves, and one for each policy of `chosen` (with `rest`), all replayed at once. The focus is the first
// chosen setting, or else sparsity 0.9.
Curves measure_curves(const ReplaySource& source, const std::vector<NamedPolicy>& chosen, const std::string& rest);

}  // namespace squeeze
