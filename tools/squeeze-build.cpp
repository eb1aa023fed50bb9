// squeeze-build: clusters the keys of a KV dump (or of a text, in one step) and writes the index.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "formats/kv_index.hpp"
#include "lib/index/sketch.hpp"
#include "tools/build_options.hpp"
#include "tools/build_table.hpp"
#include "tools/calibration_queries.hpp"

namespace squeeze {
namespace {

using Clock = std::chrono::steady_clock;

constexpr ToolText kText = {"squeeze-build", "Clusters the keys of a KV dump into a hierarchy and writes the index.",
                            "  squeeze-build manual.kv.h5 -o manual.sqz.h5 --leaf 5% --coarse 1%\n"
                            "  squeeze-build --model Llama-3.1-8B --context manual.txt -o manual.sqz.h5",
                            "the forward pass and the k-means"};

// Where each question begins among the calibration queries: where positions do not ascend.
std::vector<int64_t> first_queries(std::span<const int32_t> positions) {
  std::vector<int64_t> first;
  for (size_t i = 0; i < positions.size(); ++i) {
    if (i == 0 || positions[i] <= positions[i - 1]) first.push_back(static_cast<int64_t>(i));
  }
  return first;
}

void calibrate_index(KvIndexWriter& writer, const Context& context, const BuildOptions& o,
                     std::span<const int32_t> positions) {
  CalibrationOptions options;
  options.softmax_scale = context.model.softmax_scale;
  options.upper_keep = upper_keep(o, index_options(o, context.n_tokens()), context.n_tokens());
  options.source = parse_calibration(o.calibrate).probes ? "probes" : "window";
  options.gqa = gqa_select(o);
  const auto load = [&](int layer) {
    return CalibrationLayer{writer.layer(layer), writer.queries(layer), first_queries(positions)};
  };
  writer.write_calibration(calibrate(context.model.n_layers, load, options));
}

// Clusters and writes layers as they arrive.
class Build {
 public:
  Build(const BuildOptions& o, const Context& context, DType dtype, std::vector<int32_t> query_positions)
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
  const BuildOptions& o_;
  const Context& context_;
  DType dtype_;
  IndexOptions options_;
  std::vector<int32_t> query_positions_;
  KvIndexWriter writer_;
  std::optional<BuildTable> table_;  // begun when the output is known to be writable
};

// Bytes of keys, values, centroids, value means and sketches; of the file up to the tables around them.
int dry_run(const BuildOptions& o, const Context& context, DType dtype, int64_t prefill_memory) {
  const int64_t cache = cache_bytes(context, dtype);
  const IndexOptions options = index_options(o, context.n_tokens());
  const auto head_dim = double(context.model.head_dim);
  const double row_bytes = head_dim * double(size_of(dtype));
  double extra = 0;  // per KV head
  for (const ClusterCount& level : options.levels) {
    extra += 2 * double(level.of(context.n_tokens())) * (options.quantise_centroids ? head_dim + 4 : row_bytes);
  }
  if (options.sketch_group > 0) {
    extra += double(context.n_tokens()) * double(sketch_code_bytes(options.sketch_group, context.model.head_dim) + 2);
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

int build_from_dump(const BuildOptions& o) {
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

int build_from_text(const BuildOptions& o) {
  const CalibrationChoice choice = parse_calibration(o.calibrate);
  SourceOptions source_options = o.source;
  source_options.window = o.index.n_window;
  if (!choice.probes) source_options.probes.clear();
  ContextSource source(source_options, o.common.cuda());
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

int run(const BuildOptions& o) {
  const bool from_text = !o.source.model.empty() && !o.source.context.empty();
  if (o.input.empty() == !from_text) fail_usage("name either a KV dump or --model and --context");
  return from_text ? build_from_text(o) : build_from_dump(o);
}

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) {
  return squeeze::tool_main(argc, argv, squeeze::kText, squeeze::bind_build, squeeze::run);
}
