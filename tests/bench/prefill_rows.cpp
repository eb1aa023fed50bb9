// The user's question: attention of many tokens at once over one layer.
#include <fmt/format.h>

#include <map>

#include "lib/core/parallel.hpp"
#include "tests/bench/attend_call.hpp"

namespace squeeze {
namespace {

// The scalar kernels would take minutes for all tokens: they are timed on so many and the time is scaled, since both
// lookups and attention grow with the number of query rows.
constexpr int64_t kCheckedTokens = 8;

struct PrefillSetting {
  std::string name;
  double keys, bytes;
  int64_t query_block;
};

std::vector<PrefillSetting> settings() {
  return {{"dense", 0, 0, 0},
          {"sparsity 90 %", 0.1, 0, 4},
          {"sparsity 90 %, one selection", 0.1, 0, 0},
          {"budget 5 %", 0, 0.05, 4}};
}

std::string row_name(const ContextShape& shape, int64_t n, const PrefillSetting& setting) {
  return fmt::format("prefill {} x {} {}", n, shape.str(), setting.name);
}

AttendCall call_of(const MadeContext& context, const PrefillSetting& setting, int64_t n) {
  const Policy policy = setting.keys > 0    ? keys_policy(context, setting.keys)
                        : setting.bytes > 0 ? bytes_policy(context, setting.bytes)
                                            : dense_policy();
  return {context, policy, setting.bytes > 0 ? Rest::mean : Rest::drop, n, setting.query_block};
}

}  // namespace

void prefill_rows(Bench& bench) {
  const ContextShape shape{std::min(bench.options().max_tokens, int64_t{1} << 17), 32, 8, 128};
  std::vector<std::string> names;
  for (const int64_t n : {64, 256, 1024}) {
    for (const PrefillSetting& setting : settings()) names.push_back(row_name(shape, n, setting));
  }
  if (!bench.wants_any(names)) return;
  const MadeContext context(shape);
  const int threads = bench.options().threads.back();
  set_threads(threads);
  std::map<std::string, double> scalar_ms;  // per token
  for (const PrefillSetting& setting : settings()) {
    AttendCall checked = call_of(context, setting, kCheckedTokens);
    const double limit = setting.name == "dense" ? 1e-4 : 2e-2;
    scalar_ms[setting.name] = checked_against_scalar("prefill " + setting.name, checked, limit) / kCheckedTokens;
  }
  for (const int64_t n : {64, 256, 1024}) {
    double dense_ms = 0;
    for (const PrefillSetting& setting : settings()) {
      const std::string name = row_name(shape, n, setting);
      if (!bench.wants(name) && setting.name != "dense") continue;
      if (setting.name == "dense" && !bench.wants_any({names.begin(), names.end()})) continue;
      AttendCall call = call_of(context, setting, n);
      const double ms = bench.time([&] { call(); });
      if (setting.name == "dense") dense_ms = ms;
      BenchRow row{name, ms, 0, threads, {}, static_cast<double>(n) * scalar_ms[setting.name] / ms, {}};
      if (setting.name != "dense") {
        row.vs_dense = dense_ms / ms;
        row.note = fmt::format("lookup {:.0f} % of the time", 100 * call.lookup_share());
      }
      if (bench.wants(name)) bench.add(std::move(row));
    }
  }
}

}  // namespace squeeze
