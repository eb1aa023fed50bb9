// Replay figures as text, JSON and CSV.
#include "tools/replay_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

Json metrics_json(const HeadMetrics& m) {
  return {{"measured_sparsity", m.usage.sparsity()},
          {"budget", m.usage.budget()},
          {"kept_mass", m.kept_mass},
          {"topk_recall", m.topk_recall},
          {"output_error", m.output_error},
          {"bytes_read", m.usage.bytes_read},
          {"n_rows", m.n_rows}};
}

// Sparsity targets under their own name, as they were before there were other policies.
Json policy_json(const NamedPolicy& policy) {
  if (policy.name == "sparsity") return {{"sparsity", policy.value}};
  return {{"policy", policy.name}, {"value", policy.value}};
}

bool all_sparsity(const std::vector<ReplayTarget>& targets) {
  return std::ranges::all_of(targets, [](const ReplayTarget& t) { return t.policy.name == "sparsity"; });
}

void print_metrics(const std::string& name, const HeadMetrics& m) {
  fmt::print("{:<12}  {:>8.4f}  {:>7.4f}  {:>9.4f}  {:>11.4f}  {:>12.3e}\n", name, m.usage.sparsity(), m.usage.budget(),
             m.kept_mass, m.topk_recall, m.output_error);
}

void print_worst(const ReplayTarget& target, int count) {
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

}  // namespace

void print_json(const ReplayHeader& header, const std::vector<ReplayTarget>& targets) {
  Json list = Json::array();
  for (const ReplayTarget& target : targets) {
    Json entry = policy_json(target.policy);
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
  fmt::print("{}\n", Json{{"index", header.index},
                          {"queries", header.queries},
                          {"source", header.source},
                          {"rest", header.rest},
                          {"query_block", header.query_block},
                          {"targets", list}}
                         .dump());
}

void print_csv(const std::vector<ReplayTarget>& targets) {
  const bool short_form = all_sparsity(targets);
  fmt::print("{},layer,kv_head,measured_sparsity,budget,kept_mass,topk_recall,output_error\n",
             short_form ? "sparsity" : "policy,value");
  for (const ReplayTarget& target : targets) {
    const std::string name = short_form ? fmt::format("{}", target.policy.value)
                                        : fmt::format("{},{}", target.policy.name, target.policy.value);
    for (size_t layer = 0; layer < target.layers.size(); ++layer) {
      for (size_t head = 0; head < target.layers[layer].size(); ++head) {
        const HeadMetrics& m = target.layers[layer][head];
        fmt::print("{},{},{},{:.6f},{:.6f},{:.6f},{:.6f},{:.6g}\n", name, layer, head, m.usage.sparsity(),
                   m.usage.budget(), m.kept_mass, m.topk_recall, m.output_error);
      }
    }
  }
}

void print_tables(const std::vector<ReplayTarget>& targets, int worst) {
  for (const ReplayTarget& target : targets) {
    fmt::print("target {}\n{:<12}  {:>8}  {:>7}  {:>9}  {:>11}  {:>12}\n", target.policy.describe(), "", "sparsity",
               "budget", "kept mass", "top-k recall", "output error");
    for (size_t layer = 0; layer < target.layers.size(); ++layer) {
      print_metrics(fmt::format("layer {}", layer), pooled(target.layers[layer]));
    }
    print_metrics("all", target.total);
    if (worst > 0) fmt::print("worst heads\n");
    print_worst(target, worst);
    fmt::print("\n");
  }
}

}  // namespace squeeze
