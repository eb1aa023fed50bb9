// From the words of the command line to an index's options.
#include "tools/build_options.hpp"

#include <algorithm>
#include <cmath>

namespace squeeze {
namespace {

ClusterCount parse_count(const std::string& text, const std::string& option) {
  if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) {
    const int64_t count = text.size() > 12 ? 0 : std::stoll(text);
    if (count < 1) fail_usage("{} {}: expected a share such as 5% or a number of clusters from 1", option, text);
    return {0, count};
  }
  const double share = parse_share(text, option);
  if (!(share > 0 && share <= 1)) fail_usage("{} {}: a share must lie above 0 and be at most 100%", option, text);
  return {share, 0};
}

// Four bits stand for so many dimensions.
int sketch_group(const std::string& bits) { return bits == "0.5" ? 8 : bits == "1" ? 4 : bits == "2" ? 2 : 0; }

}  // namespace

void bind_build(CLI::App& app, BuildOptions& o) {
  app.add_option("dump", o.input, "The KV dump to index (or --model and --context)")->type_name("IN.kv.h5");
  bind_source(app, o.source);
  app.add_option("-o,--output", o.output, "The index to write")->type_name("OUT.sqz.h5")->required();
  app.add_option("--leaf", o.leaf, "Leaf clusters, as a share of the context or a number")
      ->type_name("2.5%|COUNT")
      ->capture_default_str();
  app.add_option("--coarse", o.coarse, "Coarse clusters above them; auto: as many levels as keep lookups short")
      ->type_name("auto|none|1%|COUNT")
      ->capture_default_str();
  app.add_option("--levels", o.levels, "All levels, coarsest first, instead of --coarse and --leaf: 0.1%,1%,5%")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->excludes("--leaf")
      ->excludes("--coarse")
      ->type_name("SHARE,...");
  app.add_option("--coarse-keep", o.coarse_keep,
                 "Share of what reaches it that a coarse level lets through when it prunes (default: 0.75; with "
                 "--coarse auto, less where clusters are many)")
      ->check(CLI::Range(0.01, 1.0));
  app.add_option("--centroids", o.centroids, "Storage of centroids and value means: int8, or the type of the keys")
      ->check(CLI::IsMember({"int8", "keys"}))
      ->capture_default_str();
  app.add_option("--kv", o.kv, "Storage of keys and values: the type of the keys, or int8 with a scale per row")
      ->check(CLI::IsMember({"keys", "int8"}))
      ->capture_default_str();
  app.add_option("--sketch", o.sketch, "Bits per key and dimension that tell a cluster's keys apart (0: none)")
      ->check(CLI::IsMember({"0", "0.5", "1", "2"}))
      ->capture_default_str();
  app.add_option("--sketch-keep", o.sketch_keep, "Share of the keys whose sketches are read (all rules but --budget)")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  app.add_option("--gqa-select", o.gqa_select, "How the query heads of a KV head choose together")
      ->check(CLI::IsMember({"group-mean", "group-max", "per-head"}))
      ->capture_default_str();
  app.add_option("--calibrate", o.calibrate,
                 "Queries that calibrate: the last window, or probe questions (the first N)")
      ->type_name("window|probes[:N]")
      ->capture_default_str();
  app.add_option("--probes", o.source.probes, "JSONL of sample questions that calibrate (a dump has its own)")
      ->needs("--context");
  app.add_option("--sinks", o.index.n_sinks, "First tokens that are always attended")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--window", o.index.n_window, "Last tokens that are always attended; their queries calibrate")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--metric", o.metric, "Distance between keys")
      ->check(CLI::IsMember({"cosine", "l2"}))
      ->capture_default_str();
  app.add_option("--iterations", o.index.iterations, "K-means iterations")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seed", o.index.seed, "Seed of the k-means")->capture_default_str();
  app.add_option("--segment", o.index.segment,
                 "Tokens that are clustered into leaves of their own, for speed (0: the whole context)")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_flag("--resume", o.resume, "Continue an interrupted build after its last whole layer");
  app.add_flag("--force", o.force, "Replace an existing file");
  app.add_flag("--dry-run", o.dry_run, "Print sizes and memory, write nothing");
  app.add_flag("--json", o.json, "Print the tables as JSON");
}

IndexOptions index_options(const BuildOptions& o, int64_t n_tokens) {
  IndexOptions options = o.index;
  for (const std::string& level : o.levels) options.levels.push_back(parse_count(level, "--levels"));
  if (o.levels.empty()) {
    const ClusterCount leaf = parse_count(o.leaf, "--leaf");
    if (o.coarse == "auto") {
      options.levels = levels_above(leaf, n_tokens);
    } else if (o.coarse != "none") {
      options.levels.push_back(parse_count(o.coarse, "--coarse"));
    }
    options.levels.push_back(leaf);
  }
  options.metric = o.metric == "l2" ? Metric::l2 : Metric::cosine;
  options.quantise_centroids = o.centroids == "int8";
  options.quantise_kv = o.kv == "int8";
  options.sketch_group = sketch_group(o.sketch);
  options.cuda = o.common.cuda();
  if (options.cuda && options.metric == Metric::l2) fail_usage("--metric l2: on a CUDA device keys cluster by cosine");
  return options;
}

std::vector<double> upper_keep(const BuildOptions& o, const IndexOptions& options, int64_t n_tokens) {
  std::vector<double> keep;
  if (o.coarse_keep > 0) {
    for (size_t i = 1; i < options.levels.size(); ++i) keep.push_back(std::pow(o.coarse_keep, double(i)));
  } else {
    keep = default_upper_keep(options, n_tokens);
  }
  if (options.sketches()) keep.push_back(std::min(o.sketch_keep, keep.empty() ? 1.0 : keep.back()));
  return keep;
}

GqaSelect gqa_select(const BuildOptions& o) {
  const std::string& name = o.gqa_select;
  return name == "group-max" ? GqaSelect::group_max : name == "per-head" ? GqaSelect::per_head : GqaSelect::group_mean;
}

}  // namespace squeeze
