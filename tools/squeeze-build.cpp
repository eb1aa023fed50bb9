// squeeze-build: clusters the keys of a KV dump (or of a text, in one step) and writes the index.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "formats/kv_index.hpp"
#include "lib/index/sketch.hpp"
#include "tools/build_table.hpp"
#include "tools/calibration_queries.hpp"
#include "tools/context_source.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

using Clock = std::chrono::steady_clock;

constexpr ToolText kText = {"squeeze-build", "Clusters the keys of a KV dump into a hierarchy and writes the index.",
                            "  squeeze-build manual.kv.h5 -o manual.sqz.h5 --leaf 5% --coarse 1%\n"
                            "  squeeze-build --model Llama-3.1-8B --context manual.txt -o manual.sqz.h5",
                            "the k-means"};

IndexOptions with_sketches(int bits) {
  IndexOptions options;
  options.sketch_bits = bits;
  return options;
}

struct Options {
  CommonOptions common;
  SourceOptions source;
  std::string input, output;
  std::string leaf = "2.5%", coarse = "auto", metric = "cosine", centroids = "int8", calibrate = "window";
  std::string gqa_select = "group-mean", kv = "keys";
  std::vector<std::string> levels;
  IndexOptions index = with_sketches(1);
  double coarse_keep = 0, sketch_keep = kDefaultSketchKeep;
  bool resume = false, force = false, dry_run = false, json = false;
};

void bind(CLI::App& app, Options& o) {
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
  app.add_option("--sketch", o.index.sketch_bits, "Bits per key and dimension that tell a cluster's keys apart")
      ->check(CLI::Range(0, 2))
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

IndexOptions index_options(const Options& o, int64_t n_tokens) {
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
  options.cuda = o.common.cuda();
  if (options.cuda && options.metric == Metric::l2) fail_usage("--metric l2: on a CUDA device keys cluster by cosine");
  return options;
}

// What each stage above the last lets through.
std::vector<double> upper_keep(const Options& o, const IndexOptions& options, int64_t n_tokens) {
  std::vector<double> keep;
  if (o.coarse_keep > 0) {
    for (size_t i = 1; i < options.levels.size(); ++i) keep.push_back(std::pow(o.coarse_keep, double(i)));
  } else {
    keep = default_upper_keep(options, n_tokens);
  }
  if (options.sketch_bits > 0) keep.push_back(std::min(o.sketch_keep, keep.empty() ? 1.0 : keep.back()));
  return keep;
}

GqaSelect parse_gqa(const std::string& name) {
  return name == "group-max" ? GqaSelect::group_max : name == "per-head" ? GqaSelect::per_head : GqaSelect::group_mean;
}

// Where each question begins among the calibration queries: where positions do not ascend.
std::vector<int64_t> first_queries(std::span<const int32_t> positions) {
  std::vector<int64_t> first;
  for (size_t i = 0; i < positions.size(); ++i) {
    if (i == 0 || positions[i] <= positions[i - 1]) first.push_back(static_cast<int64_t>(i));
  }
  return first;
}

void calibrate_index(KvIndexWriter& writer, const Context& context, const Options& o,
                     std::span<const int32_t> positions) {
  CalibrationOptions options;
  options.softmax_scale = context.model.softmax_scale;
  options.upper_keep = upper_keep(o, index_options(o, context.n_tokens()), context.n_tokens());
  options.source = parse_calibration(o.calibrate).probes ? "probes" : "window";
  options.gqa = parse_gqa(o.gqa_select);
  const auto load = [&](int layer) {
    return CalibrationLayer{writer.layer(layer), writer.queries(layer), first_queries(positions)};
  };
  writer.write_calibration(calibrate(context.model.n_layers, load, options));
}

// Clusters and writes layers as they arrive.
class Build {
 public:
  Build(const Options& o, const Context& context, DType dtype, std::vector<int32_t> query_positions)
      : o_(o),
        context_(context),
        dtype_(dtype),
        options_(index_options(o, context.n_tokens())),
        query_positions_(std::move(query_positions)),
        writer_(o.output, context, dtype, options_, {o.force, o.resume}, query_positions_) {
    if (writer_.n_layers_done() > 0) note(o.common, fmt::format("resuming after layer {}", writer_.n_layers_done()));
    table_.emplace(o.json);
  }
  KvIndexWriter& writer() { return writer_; }

  // probes: their queries, [n_query_heads, n, head_dim] each; taken if they calibrate. Of the window's queries those
  // that do not see every clustered token (a dump's window may be longer than the index's) are left out.
  void add(int layer, const KvLayerView& kv, std::vector<TensorView> probes, TensorView hidden) {
    const auto start = Clock::now();
    const CalibrationChoice choice = parse_calibration(o_.calibrate);
    const int64_t n_queries = kv.queries.size(1);
    if (choice.n_probes > 0) probes.resize(std::min(probes.size(), static_cast<size_t>(choice.n_probes)));
    const Tensor queries = choice.probes ? joined_dim1(probes)
                                         : slice_dim1(kv.queries, n_queries - std::ssize(query_positions_), n_queries);
    const IndexLayer index = clustered(layer, kv);
    writer_.write_layer(layer, index, hidden, queries);
    table_->add(layer, index, std::chrono::duration<double>(Clock::now() - start).count());
  }

  IndexLayer clustered(int layer, const KvLayerView& kv) const {
    try {
      return build_layer(kv.keys, kv.values, options_);
    } catch (const Error& e) {
      fail("{}: layer {}: {}", o_.input.empty() ? o_.source.model : o_.input, layer, e.what());
    }
  }

  void finish() {
    calibrate_index(writer_, context_, o_, query_positions_);
    writer_.finish();
    table_->finish(o_.output, context_, dtype_, std::chrono::duration<double>(Clock::now() - start_).count());
  }

 private:
  const Clock::time_point start_ = Clock::now();
  const Options& o_;
  const Context& context_;
  DType dtype_;
  IndexOptions options_;
  std::vector<int32_t> query_positions_;
  KvIndexWriter writer_;
  std::optional<BuildTable> table_;  // begun when the output is known to be writable
};

// Bytes of keys, values, centroids, value means and sketches; of the file up to the tables around them.
int dry_run(const Options& o, const Context& context, DType dtype, int64_t prefill_memory) {
  const int64_t cache = cache_bytes(context, dtype);
  const IndexOptions options = index_options(o, context.n_tokens());
  const auto head_dim = double(context.model.head_dim);
  const double row_bytes = head_dim * double(size_of(dtype));
  double extra = 0;  // per KV head
  for (const ClusterCount& level : options.levels) {
    extra += 2 * double(level.of(context.n_tokens())) * (options.quantise_centroids ? head_dim + 4 : row_bytes);
  }
  if (options.sketch_bits > 0) {
    extra += double(context.n_tokens()) * double(sketch_bytes(options.sketch_bits, context.model.head_dim));
  }
  const double kv_share = options.quantise_kv ? (head_dim + 4) / row_bytes : 1;
  const double share = kv_share + extra / (2 * row_bytes * double(context.n_tokens()));
  const double layer = double(cache) / context.model.n_layers;
  // Keys and values are rounded when the layer is done.
  const double memory = layer * (1 + share + (options.quantise_kv ? 1 : share)) + double(prefill_memory);
  if (o.json) {
    fmt::print("{}\n", nlohmann::ordered_json{{"output", o.output},
                                              {"n_tokens", context.n_tokens()},
                                              {"bytes", int64_t(double(cache) * share)},
                                              {"memory_bytes", int64_t(memory)},
                                              {"dry_run", true}}
                           .dump());
  } else {
    fmt::print(
        "{}: {} tokens, about {} ({:.1f} % of the KV cache); memory about {}. Nothing was written (--dry-run).\n",
        o.output, context.n_tokens(), human_bytes(double(cache) * share), 100 * share, human_bytes(memory));
  }
  return 0;
}

int build_from_dump(const Options& o) {
  const KvDump dump(o.input);
  const Context& context = dump.context();
  check_options(index_options(o, context.n_tokens()), context.n_tokens());
  if (o.dry_run) return dry_run(o, context, dump.dtype(), 0);
  const CalibrationChoice choice = parse_calibration(o.calibrate);
  std::vector<int64_t> probe_lengths;
  for (int i = 0; i < dump.n_probes(); ++i) probe_lengths.push_back(std::ssize(dump.probe_tokens(i)));
  Build build(o, context, dump.dtype(),
              choice.probes ? probe_positions(o.input, probe_lengths, context.n_tokens(), choice)
                            : window_positions(o.input, dump.query_positions(), context.n_tokens(), o.index.n_window));
  const Progress progress = terminal_progress(o.common.quiet, "layers");
  for (int layer = build.writer().n_layers_done(); layer < context.model.n_layers; ++layer) {
    progress({fmt::format("layer {}/{}", layer + 1, context.model.n_layers), layer, context.model.n_layers});
    std::vector<TensorView> probes;
    for (int i = 0; i < dump.n_probes(); ++i) probes.push_back(dump.probe_layer(i, layer).queries);
    build.add(layer, dump.layer(layer), std::move(probes), {});
  }
  build.finish();
  return 0;
}

int build_from_text(const Options& o) {
  const CalibrationChoice choice = parse_calibration(o.calibrate);
  SourceOptions source_options = o.source;
  source_options.window = o.index.n_window;
  if (!choice.probes) source_options.probes.clear();
  ContextSource source(source_options);
  check_options(index_options(o, source.context().n_tokens()), source.context().n_tokens());
  if (o.dry_run) return dry_run(o, source.context(), source.dtype(), source.memory_bytes());
  std::vector<int64_t> probe_lengths;
  for (const auto& probe : source.probes()) probe_lengths.push_back(std::ssize(probe));
  Build build(o, source.context(), source.dtype(),
              choice.probes ? probe_positions(o.source.model, probe_lengths, source.context().n_tokens(), choice)
                            : source.query_positions());
  source.run(
      build.writer().n_layers_done(), build.writer().hidden(),
      [&](const PrefilledLayer& layer) {
        std::vector<TensorView> probes;
        for (const KvLayer& probe : layer.probes) probes.push_back(probe.queries);
        build.add(layer.layer, {layer.context.keys, layer.context.values, layer.context.queries}, std::move(probes),
                  layer.hidden);
      },
      terminal_progress(o.common.quiet, "tokens"));
  build.finish();
  return 0;
}

int run(const Options& o) {
  const bool from_text = !o.source.model.empty() && !o.source.context.empty();
  if (o.input.empty() == !from_text) fail_usage("name either a KV dump or --model and --context");
  return from_text ? build_from_text(o) : build_from_dump(o);
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) { return squeeze::tool_main(argc, argv, squeeze::kText, squeeze::bind, squeeze::run); }
