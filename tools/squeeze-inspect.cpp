// squeeze-inspect: what a file holds, what an index keeps of the true attention, and whether its laws hold.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/describe_file.hpp"
#include "tools/replay_report.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

constexpr ToolText kText = {"squeeze-inspect",
                            "Shows what a dump or an index holds, and what an index keeps of the true attention.",
                            "  squeeze-inspect manual.sqz.h5\n"
                            "  squeeze-inspect manual.sqz.h5 --queries manual.kv.h5 --sparsity 0.7,0.9,0.95\n"
                            "  squeeze-inspect manual.sqz.h5 --queries manual.kv.h5 --verify"};

struct Options {
  CommonOptions common;
  std::string file, queries, rest = "drop";
  std::vector<double> sparsity = {0.5, 0.7, 0.8, 0.9, 0.95};
  int64_t block_size = 1;
  int worst = 5;
  bool probes = false, verify = false, json = false, csv = false;
};

void bind(CLI::App& app, Options& o) {
  app.add_option("file", o.file, "A KV dump or an index")->type_name("FILE")->required();
  auto* queries =
      app.add_option("--queries", o.queries, "Replay the recorded queries of this KV dump")->type_name("DUMP");
  app.add_flag("--probes", o.probes, "Replay the dump's probe questions instead of its last window")->needs(queries);
  app.add_option("--sparsity", o.sparsity, "Targets, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 0.9999))
      ->capture_default_str();
  app.add_option("--rest", o.rest, "Clusters that are not read: drop them, or count them at their means")
      ->check(CLI::IsMember({"drop", "mean"}))
      ->capture_default_str();
  app.add_option("--query-block", o.block_size, "Query tokens that share a selection")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--worst", o.worst, "Heads to list, by output error")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  app.add_flag("--verify", o.verify, "Check the laws of an index; with --queries those of its attention too");
  auto* json = app.add_flag("--json", o.json, "Print JSON");
  app.add_flag("--csv", o.csv, "Print a line per target, layer and KV head")->excludes(json);
}

struct Target {
  double sparsity = 0;
  std::vector<std::vector<HeadMetrics>> layers;
  HeadMetrics total;
};

Json metrics_json(const HeadMetrics& m) {
  return {{"measured_sparsity", m.usage.sparsity()},
          {"budget", m.usage.budget()},
          {"kept_mass", m.kept_mass},
          {"topk_recall", m.topk_recall},
          {"output_error", m.output_error},
          {"bytes_read", m.usage.bytes_read},
          {"n_rows", m.n_rows}};
}

void print_json(const Options& o, const std::vector<Target>& targets) {
  Json list = Json::array();
  for (const Target& target : targets) {
    Json entry = {{"sparsity", target.sparsity}};
    entry.update(metrics_json(target.total));
    entry["layers"] = Json::array();
    for (size_t layer = 0; layer < target.layers.size(); ++layer) {
      Json row = {{"layer", layer}};
      row.update(metrics_json(pooled(target.layers[layer])));
      row["heads"] = Json::array();
      for (size_t head = 0; head < target.layers[layer].size(); ++head) {
        Json cell = {{"kv_head", head}};
        cell.update(metrics_json(target.layers[layer][head]));
        row["heads"].push_back(cell);
      }
      entry["layers"].push_back(row);
    }
    list.push_back(entry);
  }
  fmt::print("{}\n", Json{{"index", o.file},
                          {"queries", o.queries},
                          {"source", o.probes ? "probes" : "window"},
                          {"rest", o.rest},
                          {"query_block", o.block_size},
                          {"targets", list}}
                         .dump());
}

void print_csv(const std::vector<Target>& targets) {
  fmt::print("sparsity,layer,kv_head,measured_sparsity,budget,kept_mass,topk_recall,output_error\n");
  for (const Target& target : targets) {
    for (size_t layer = 0; layer < target.layers.size(); ++layer) {
      for (size_t head = 0; head < target.layers[layer].size(); ++head) {
        const HeadMetrics& m = target.layers[layer][head];
        fmt::print("{},{},{},{:.6f},{:.6f},{:.6f},{:.6f},{:.6g}\n", target.sparsity, layer, head, m.usage.sparsity(),
                   m.usage.budget(), m.kept_mass, m.topk_recall, m.output_error);
      }
    }
  }
}

void print_metrics(const std::string& name, const HeadMetrics& m) {
  fmt::print("{:<12}  {:>8.4f}  {:>7.4f}  {:>9.4f}  {:>11.4f}  {:>12.3e}\n", name, m.usage.sparsity(), m.usage.budget(),
             m.kept_mass, m.topk_recall, m.output_error);
}

void print_worst(const Target& target, int count) {
  struct Entry {
    size_t layer, head;
    const HeadMetrics* metrics;
  };
  std::vector<Entry> entries;
  for (size_t layer = 0; layer < target.layers.size(); ++layer) {
    for (size_t head = 0; head < target.layers[layer].size(); ++head) {
      entries.push_back({layer, head, &target.layers[layer][head]});
    }
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.metrics->output_error > b.metrics->output_error; });
  entries.resize(std::min(entries.size(), static_cast<size_t>(count)));
  for (const Entry& e : entries) print_metrics(fmt::format("L{} head {}", e.layer, e.head), *e.metrics);
}

void print_tables(const Options& o, const std::vector<Target>& targets) {
  for (const Target& target : targets) {
    fmt::print("target sparsity {}\n{:<12}  {:>8}  {:>7}  {:>9}  {:>11}  {:>12}\n", target.sparsity, "", "sparsity",
               "budget", "kept mass", "top-k recall", "output error");
    for (size_t layer = 0; layer < target.layers.size(); ++layer) {
      print_metrics(fmt::format("layer {}", layer), pooled(target.layers[layer]));
    }
    print_metrics("all", target.total);
    if (o.worst > 0) fmt::print("worst heads\n");
    print_worst(target, o.worst);
    fmt::print("\n");
  }
}

int replay(const Options& o) {
  const KvIndex index(o.file);
  const KvDump dump(o.queries);
  check_same_context(index, dump);
  const ReplaySource source{index, dump, o.probes, o.block_size};
  const Rest rest = o.rest == "mean" ? Rest::mean : Rest::drop;
  std::vector<Target> targets;
  for (const double sparsity : o.sparsity) {
    const Policy policy = sparsity_policy(index.calibration(), sparsity, index.context().model.softmax_scale);
    targets.push_back({sparsity, replay_heads(source, policy, rest), {}});
    targets.back().total = pooled(targets.back().layers);
  }
  if (o.json) {
    print_json(o, targets);
  } else if (o.csv) {
    print_csv(targets);
  } else {
    print_tables(o, targets);
  }
  return 0;
}

int run(const Options& o) {
  if (o.verify) return verify_index(o.file, o.queries) > 0 ? 1 : 0;
  if (!o.queries.empty()) return replay(o);
  describe_file(o.file, o.json);
  return 0;
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) { return squeeze::tool_main(argc, argv, squeeze::kText, squeeze::bind, squeeze::run); }
