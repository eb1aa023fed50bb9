// lookup_growth: how lookups grow with the context, on made-up keys of 4K to 1M tokens.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <nlohmann/json.hpp>

#include "tests/growth.hpp"

namespace squeeze {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  int64_t min_tokens = 4096, max_tokens = 1 << 20;
  float common = 0;
  unsigned seed = 1;
  double leaf = 0.025;
  IndexOptions index;
  std::string metric = "cosine";
  bool json = false;
};

struct GrowthRow {
  int64_t n_tokens = 0;
  std::vector<int64_t> clusters;  // per level
  LookupFigures tree, flat;
  double build_seconds = 0;
};

GrowthRow measure_length(const Options& o, int64_t n_tokens) {
  const PlantedContext context = PlantedKeys({.n_tokens = n_tokens, .common = o.common}, o.seed).make();
  IndexOptions options = growth_options(o.leaf, n_tokens, o.index.segment);
  options.metric = o.metric == "l2" ? Metric::l2 : Metric::cosine;
  const auto start = Clock::now();
  const IndexLayer layer = build_layer(context.keys, context.keys, options);
  GrowthRow row{n_tokens, {}, {}, {}, std::chrono::duration<double>(Clock::now() - start).count()};
  const HeadView head = layer.head(0);
  for (const LevelView& level : head.levels) row.clusters.push_back(level.n_clusters());
  row.tree = measure(head, context, {.upper_keep = default_upper_keep(options, n_tokens)});
  row.flat = measure(flat(head), context, {});
  return row;
}

void print_header() {
  fmt::print("{:>25}  {:>24}  {:>16}  {:>14}  {:>14}\n", "", "rows scored", "KiB read", "recall", "kept mass");
  fmt::print("{:>8}  {:>15}  {:>6}  {:>6}  {:>8}  {:>7}  {:>7}  {:>6}  {:>6}  {:>6}  {:>6}  {:>7}\n", "tokens",
             "clusters", "tree", "flat", "flat 5 %", "tree", "flat", "tree", "flat", "tree", "flat", "build s");
}

void print_row(const GrowthRow& row) {
  std::string levels;
  for (const int64_t n : row.clusters) levels += fmt::format("{}{}", levels.empty() ? "" : " / ", n);
  fmt::print(
      "{:>8}  {:>15}  {:>6.0f}  {:>6.0f}  {:>8}  {:>7.0f}  {:>7.0f}  {:>6.3f}  {:>6.3f}  {:>6.3f}  {:>6.3f}  "
      "{:>7.1f}\n",
      row.n_tokens, levels, row.tree.rows_scored, row.flat.rows_scored, row.n_tokens / 20, row.tree.bytes / 1024,
      row.flat.bytes / 1024, row.tree.recall, row.flat.recall, row.tree.kept_mass, row.flat.kept_mass,
      row.build_seconds);
  std::fflush(stdout);
}

nlohmann::ordered_json as_json(const LookupFigures& figures) {
  return {{"rows_scored", figures.rows_scored},
          {"bytes", figures.bytes},
          {"keys_selected", figures.n_selected},
          {"recall", figures.recall},
          {"kept_mass", figures.kept_mass}};
}

void print_json(const GrowthRow& row) {
  const nlohmann::ordered_json line = {{"n_tokens", row.n_tokens},
                                       {"clusters", row.clusters},
                                       {"tree", as_json(row.tree)},
                                       {"flat", as_json(row.flat)},
                                       {"flat_5_percent_rows", row.n_tokens / 20},
                                       {"build_seconds", row.build_seconds}};
  fmt::print("{}\n", line.dump());
}

int run(const Options& o) {
  if (!o.json) print_header();
  for (int64_t n_tokens = o.min_tokens; n_tokens <= o.max_tokens; n_tokens *= 4) {
    const GrowthRow row = measure_length(o, n_tokens);
    o.json ? print_json(row) : print_row(row);
  }
  return 0;
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) {
  CLI::App app("Rows scored, bytes read and planted keys found by lookups in contexts of growing length.");
  squeeze::Options o;
  app.add_option("--max-tokens", o.max_tokens, "The longest context")->capture_default_str();
  app.add_option("--min-tokens", o.min_tokens, "The shortest context")->capture_default_str();
  app.add_option("--common", o.common, "Norm of a vector that all keys have in common; their own parts have 12")
      ->capture_default_str();
  app.add_option("--seed", o.seed, "Of the keys and questions")->capture_default_str();
  app.add_option("--metric", o.metric, "As of squeeze-build")
      ->check(CLI::IsMember({"cosine", "l2"}))
      ->capture_default_str();
  app.add_option("--segment", o.index.segment, "As of squeeze-build")->capture_default_str();
  app.add_option("--leaf", o.leaf, "Leaf clusters, as a share of the context")->capture_default_str();
  app.add_flag("--json", o.json, "One line of JSON per length");
  CLI11_PARSE(app, argc, argv);
  return squeeze::run(o);
}
