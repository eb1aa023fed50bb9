// squeeze-inspect --verify: every law of an index, on the file.
#include <fmt/format.h>

#include <cmath>

#include "formats/kv_index.hpp"
#include "lib/index/verify.hpp"
#include "tools/describe_file.hpp"
#include "tools/replay_report.hpp"
#include "tools/verify_device.hpp"

namespace squeeze {
namespace {

constexpr int kShownViolations = 5;

// Prints the law's line and the first violations; returns 1 if it does not hold.
int report(const std::string& law, const std::vector<std::string>& violations) {
  fmt::print("{:<4} {}\n", violations.empty() ? "ok" : "FAIL", law);
  for (size_t i = 0; i < violations.size() && i < kShownViolations; ++i) fmt::print("       {}\n", violations[i]);
  if (violations.size() > kShownViolations) fmt::print("       and {} more\n", violations.size() - kShownViolations);
  return violations.empty() ? 0 : 1;
}

std::vector<std::string> structure_violations(const KvIndex& index, const KvDump* dump) {
  std::vector<std::string> violations;
  const ContextView view = index.view();
  for (size_t layer = 0; layer < view.layers.size(); ++layer) {
    const KvLayerView kv = dump ? dump->layer(static_cast<int>(layer)) : KvLayerView{};
    for (const std::string& what : verify_layer(view.layers[layer], kv.keys, kv.values)) {
      violations.push_back(fmt::format("layer {}, {}", layer, what));
    }
  }
  return violations;
}

std::vector<std::string> full_budget_violations(const ReplaySource& source) {
  const float scale = source.index.context().model.softmax_scale;
  const Policy policy = sparsity_policy(source.index.calibration(), 0, scale);
  const HeadMetrics full = pooled(replay_heads(source, policy, Rest::drop));
  if (full.output_error < 1e-5 && full.usage.kept() == 1) return {};
  return {fmt::format("at sparsity 0 the output error is {:.2e} and the kept share {}", full.output_error,
                      full.usage.kept())};
}

std::vector<std::string> sparsity_violations(const ReplaySource& source) {
  std::vector<std::string> violations;
  const float scale = source.index.context().model.softmax_scale;
  for (const double target : {0.5, 0.7, 0.8, 0.9, 0.95}) {
    const Policy policy = sparsity_policy(source.index.calibration(), target, scale);
    const double measured = pooled(replay_heads(source, policy, Rest::drop)).usage.sparsity();
    if (std::abs(measured - target) > 0.01) {
      violations.push_back(
          fmt::format("asked for sparsity {}, measured {:.4f} on the calibration queries", target, measured));
    }
  }
  return violations;
}

}  // namespace

int verify_index(const std::string& path, const std::string& dump_path, bool cuda) {
  const KvIndex index(path);
  if (dump_path.empty()) {
    return report("rows are a permutation, clusters partition them, centroids and value means are means",
                  structure_violations(index, nullptr));
  }
  const KvDump dump(dump_path);
  check_same_context(index, dump);
  const ReplaySource source{index, dump, index.calibration().source == "probes", 1, true};
  int n = report("rows are a permutation of the dump's, clusters partition them, centroids and value means are means",
                 structure_violations(index, &dump)) +
          report("full budget equals dense attention", full_budget_violations(source)) +
          report("sparsity asked for is sparsity measured (within 0.01)", sparsity_violations(source));
  if (!cuda) return n;
  for (const CheckedLaw& checked : verify_on_device(source)) n += report(checked.law, checked.violations);
  return n;
}

}  // namespace squeeze
