// squeeze-inspect: what a file holds, what an index keeps of the true attention, and whether its laws hold.
#include <fmt/format.h>

#include "formats/html_report.hpp"
#include "tools/describe_file.hpp"
#include "tools/policy_options.hpp"
#include "tools/replay_report.hpp"
#include "tools/replay_tables.hpp"
#include "tools/report_data.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

constexpr ToolText kText = {"squeeze-inspect",
                            "Shows what a dump or an index holds, and what an index keeps of the true attention.",
                            "  squeeze-inspect manual.sqz.h5\n"
                            "  squeeze-inspect manual.sqz.h5 --queries manual.kv.h5 --sparsity 0.7,0.9,0.95\n"
                            "  squeeze-inspect manual.sqz.h5 --queries manual.kv.h5 --model DIR --html report.html\n"
                            "  squeeze-inspect manual.sqz.h5 --queries manual.kv.h5 --verify\n"
                            "  squeeze-inspect manual.sqz.h5 --queries manual.kv.h5 --verify --device cuda",
                            "checking with --verify --queries that it attends as the CPU does"};

struct Options {
  CommonOptions common;
  std::string file, queries, rest = "mean", html, model;
  std::vector<double> sparsity;
  std::vector<std::string> policies;
  int64_t block_size = 1;
  int worst = 5;
  bool probes = false, verify = false, json = false, csv = false, force = false;
};

void bind(CLI::App& app, Options& o) {
  app.add_option("file", o.file, "A KV dump or an index")->type_name("FILE")->required();
  auto* queries =
      app.add_option("--queries", o.queries, "Replay the recorded queries of this KV dump")->type_name("DUMP");
  app.add_flag("--probes", o.probes,
               "Replay the dump's probe questions (those that did not calibrate it), not its last window")
      ->needs(queries);
  auto* sparsity =
      app.add_option("--sparsity", o.sparsity, "Targets, separated by commas (default: 0.5,0.7,0.8,0.9,0.95)")
          ->delimiter(',')
          ->check(CLI::Range(0.0, 0.9999));
  app.add_option("--policy", o.policies, "Replay these policies instead, separated by commas: " + policy_names())
      ->delimiter(',')
      ->type_name("NAME[:VALUE]")
      ->excludes(sparsity);
  app.add_option("--rest", o.rest, "Clusters that are not read: drop them, or count them at their means")
      ->check(CLI::IsMember({"drop", "mean"}))
      ->capture_default_str();
  app.add_option("--query-block", o.block_size, "Query tokens that share a selection")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--worst", o.worst, "Heads to list, by output error")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  app.add_flag("--verify", o.verify,
               "Check the laws of an index; with --queries those of its attention too, on --device cuda the device's");
  auto* json = app.add_flag("--json", o.json, "Print JSON");
  auto* csv = app.add_flag("--csv", o.csv, "Print a line per target, layer and KV head")->excludes(json);
  auto* html = app.add_option("--html", o.html, "Write a report: policies and baselines, heads, clusters, text")
                   ->type_name("FILE")
                   ->needs(queries)
                   ->excludes(csv);
  app.add_option("--model", o.model, "Model directory: the report shows the text, not token ids")
      ->type_name("DIR")
      ->needs(html);
  app.add_flag("--force", o.force, "Replace an existing report")->needs(html);
}

std::vector<NamedPolicy> chosen_policies(const Options& o) {
  std::vector<NamedPolicy> chosen;
  for (const std::string& policy : o.policies) chosen.push_back(parse_policy(policy));
  for (const double sparsity : o.sparsity) chosen.push_back({"sparsity", sparsity});
  return chosen;
}

int write_report(const Options& o) {
  const std::vector<NamedPolicy> chosen = chosen_policies(o);
  const HtmlReport report(o.html, o.force);
  const KvIndex index(o.file);
  const KvDump dump(o.queries);
  check_same_context(index, dump);
  const std::string json = report_json({{index, dump, o.probes, o.block_size}, chosen, o.rest, o.model, o.worst});
  const size_t n_bytes = report.write(json);
  note(o.common, fmt::format("{}: {}", o.html, human_bytes(static_cast<double>(n_bytes))));
  if (o.json) fmt::print("{}\n", json);
  return 0;
}

int replay(const Options& o) {
  std::vector<NamedPolicy> chosen = chosen_policies(o);
  if (chosen.empty()) {
    for (const double sparsity : {0.5, 0.7, 0.8, 0.9, 0.95}) chosen.push_back({"sparsity", sparsity});
  }
  const KvIndex index(o.file);
  const KvDump dump(o.queries);
  check_same_context(index, dump);
  const ReplaySource source{index, dump, o.probes, o.block_size};
  if (o.probes) {
    const auto [first, last] = replayed_probes(source);
    if (first > 0)
      note(o.common, fmt::format("replaying probes {} to {}: the others calibrated the index", first, last - 1));
  }
  std::vector<ReplayRule> rules;
  for (const NamedPolicy& named : chosen) {
    const Rest rest = rest_of(named.name, o.rest);
    rules.push_back({make_policy(named, rest, index), rest});
  }
  const std::vector<LayerMetrics> measured = replay_rules(source, rules);
  std::vector<ReplayTarget> targets;
  for (size_t i = 0; i < chosen.size(); ++i) targets.push_back({chosen[i], measured[i], pooled(measured[i])});
  if (o.json) {
    print_json({o.file, o.queries, o.probes ? "probes" : "window", o.rest, o.block_size}, targets);
  } else if (o.csv) {
    print_csv(targets);
  } else {
    print_tables(targets, o.worst);
  }
  return 0;
}

int run(const Options& o) {
  if (o.common.cuda() && !(o.verify && !o.queries.empty())) {
    fail_usage("--device {}: files are inspected on the CPU; --verify --queries DUMP checks the device against it",
               o.common.device);
  }
  if (o.verify) return verify_index(o.file, o.queries, o.common.cuda()) > 0 ? 1 : 0;
  if (!o.html.empty()) return write_report(o);
  if (!o.queries.empty()) return replay(o);
  describe_file(o.file, o.json);
  return 0;
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) { return squeeze::tool_main(argc, argv, squeeze::kText, squeeze::bind, squeeze::run); }
