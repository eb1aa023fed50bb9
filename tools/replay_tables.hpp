// What squeeze-inspect prints of replays: tables, JSON or CSV.
#pragma once

#include <string>
#include <vector>

#include "tools/policy_options.hpp"
#include "tools/replay_report.hpp"

namespace squeeze {

// One policy replayed over the whole index.
struct ReplayTarget {
  NamedPolicy policy;
  LayerMetrics layers;
  HeadMetrics total;  // of all
};

// What was replayed, for the JSON.
struct ReplayHeader {
  std::string index, queries;  // files
  std::string source;          // "window" or "probes"
  std::string rest;            // "drop" or "mean"
  int64_t query_block = 1;
};

void print_json(const ReplayHeader& header, const std::vector<ReplayTarget>& targets);
// A line per target, layer and KV head.
void print_csv(const std::vector<ReplayTarget>& targets);
// A table per target: a line per layer, all layers, and the `worst` heads by output error.
void print_tables(const std::vector<ReplayTarget>& targets, int worst);

}  // namespace squeeze
