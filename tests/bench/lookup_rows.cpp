// Lookups alone, 16K to 1M keys of one KV head, a group of four query heads: the tree, and all leaves (flat).
#include <fmt/format.h>

#include <array>
#include <set>

#include "lib/attention/lookup_scratch.hpp"
#include "lib/attention/usage.hpp"
#include "lib/core/parallel.hpp"
#include "tests/bench/bench.hpp"
#include "tests/bench/made_context.hpp"

namespace squeeze {
namespace {

constexpr int64_t kKeys = 1024, kSketches = 8192;  // read by every lookup, whatever the length

std::string row_name(const ContextShape& shape, bool flat) {
  return fmt::format("lookup {} {}", shape.str().substr(4), flat ? "flat" : "tree");
}

// Rounding may change choices between nearly equal keys, a few of all.
void check_same(const std::string& name, const Selection& found, const Selection& expected) {
  std::set<int32_t> rows;
  for (const RowRange& range : expected.ranges) {
    for (int32_t row = range.begin; row < range.end; ++row) rows.insert(row);
  }
  int64_t n_common = 0;
  for (const RowRange& range : found.ranges) {
    for (int32_t row = range.begin; row < range.end; ++row) n_common += rows.contains(row) ? 1 : 0;
  }
  if (n_common * 50 < std::ssize(rows) * 49) {
    fail("{}: of {} keys that the scalar kernels select, {} are found", name, rows.size(), n_common);
  }
}

void add_row(Bench& bench, const MadeContext& context, bool flat) {
  HeadView head = context.view().layers[0][0];
  if (flat) head.levels.erase(head.levels.begin(), head.levels.end() - 1);
  SelectionRule rule{.rule = Rule::bytes, .rest = Rest::drop, .group = {GqaSelect::group_mean, 4}};
  if (!flat) {
    for (const double keep : default_upper_keep(context.options(), head.n_tokens())) {
      rule.keep_keys.push_back(static_cast<int64_t>(keep * static_cast<double>(head.n_clustered())));
    }
  }
  const Tensor queries = context.queries(1);
  const float scale = context.view().model.softmax_scale;
  const TensorView rows(queries.data(), DType::f32, {4, queries.size(2)});
  const Selection nothing = select_clusters(head, rows, scale, rule);
  const auto sketches = static_cast<double>(kSketches * head.sketches.key_bytes());
  const auto keys = static_cast<double>(kKeys * kv_bytes(head));
  const int64_t fixed =
      pinned_bytes(head) + nothing.n_scored * centroid_bytes(head.levels.back()) + head.sketches.codebook_bytes();
  rule.bytes = static_cast<double>(fixed) + sketches + keys;
  rule.sketch_share = sketches / (sketches + keys);
  const std::string name = row_name(context.shape(), flat);
  LookupScratch scratch;
  Selection selection, expected;
  const auto look_up = [&](Selection& out) {
    scratch.spare = std::move(out);
    out = select_clusters(head, rows, scale, rule, scratch);
  };
  const double ms = bench.time([&] { look_up(selection); });
  std::array<double, 3> scalar_ms;
  for (double& one : scalar_ms) one = time_scalar([&] { look_up(expected); });
  std::sort(scalar_ms.begin(), scalar_ms.end());
  check_same(name, selection, expected);
  bench.add({name,
             ms,
             static_cast<double>(selection.n_scored * centroid_bytes(head.levels.back()) + selection.index_bytes),
             1,
             {},
             scalar_ms[1] / ms,
             fmt::format("{} rows and {} sketches scored", selection.n_scored, selection.n_sketched)});
}

}  // namespace

void lookup_rows(Bench& bench) {
  set_threads(1);
  for (int64_t n_tokens = 1 << 14; n_tokens <= 8 * bench.options().max_tokens; n_tokens *= 4) {
    const ContextShape shape{n_tokens, 4, 1, 128};
    const bool any = bench.wants_any({row_name(shape, false), row_name(shape, true)});
    if (!any) continue;
    set_threads(bench.options().threads.back());
    const MadeContext context(shape);
    set_threads(1);
    for (const bool flat : {false, true}) {
      if (bench.wants(row_name(shape, flat))) add_row(bench, context, flat);
    }
  }
}

}  // namespace squeeze
