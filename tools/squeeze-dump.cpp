// squeeze-dump: runs a model over a fixed text and records keys, values and calibration queries of every layer.
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "formats/kv_dump.hpp"
#include "tools/context_source.hpp"
#include "tools/import_dump.hpp"
#include "tools/tool.hpp"

namespace squeeze {
namespace {

constexpr ToolText kText = {"squeeze-dump", "Runs a model over a fixed text and writes its KV cache, layer by layer.",
                            "  squeeze-dump --model Llama-3.1-8B --context manual.txt -o manual.kv.h5\n"
                            "  squeeze-dump --from other-runtime.safetensors -o manual.kv.h5",
                            "the forward pass"};

struct Options {
  CommonOptions common;
  SourceOptions source;
  std::string from;
  std::string output;
  bool resume = false, force = false, dry_run = false, json = false;
};

void bind(CLI::App& app, Options& o) {
  bind_source(app, o.source);
  app.add_option("--window", o.source.window, "Last context tokens whose queries are recorded for calibration")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--probes", o.source.probes, "JSONL of sample questions, recorded after the context")
      ->type_name("FILE.jsonl");
  app.add_option("--from", o.from, "Import keys, values and queries of another runtime instead of running a model")
      ->type_name("FILE.safetensors")
      ->excludes("--model")
      ->excludes("--context")
      ->excludes("--probes");
  app.add_option("-o,--output", o.output, "The KV dump to write")->type_name("NAME.kv.h5")->required();
  app.add_flag("--resume", o.resume, "Continue an interrupted run after its last whole layer");
  app.add_flag("--force", o.force, "Replace an existing file");
  app.add_flag("--dry-run", o.dry_run, "Print sizes and memory, write nothing");
  app.add_flag("--json", o.json, "Print the summary as JSON");
}

int64_t dump_bytes(const Context& context, const DumpSpec& spec) {
  const ModelInfo& m = context.model;
  const auto element = static_cast<int64_t>(size_of(spec.dtype));
  const auto n_queries = static_cast<int64_t>(spec.query_positions.size());
  int64_t rows = 2 * m.n_kv_heads * context.n_tokens() + m.n_query_heads * n_queries;
  for (const auto& probe : spec.probes) rows += (2 * m.n_kv_heads + m.n_query_heads) * int64_t(probe.size());
  return rows * m.n_layers * m.head_dim * element;
}

void print_summary(const Options& o, const Context& context, const DumpSpec& spec, int64_t memory, double seconds) {
  const int64_t bytes = dump_bytes(context, spec);
  if (o.json) {
    nlohmann::ordered_json summary = {{"output", o.output},
                                      {"n_tokens", context.n_tokens()},
                                      {"n_documents", context.documents.size()},
                                      {"n_layers", context.model.n_layers},
                                      {"n_kv_heads", context.model.n_kv_heads},
                                      {"head_dim", context.model.head_dim},
                                      {"n_probes", spec.probes.size()},
                                      {"dtype", name_of(spec.dtype)},
                                      {"bytes", bytes},
                                      {"memory_bytes", memory},
                                      {"dry_run", o.dry_run}};
    if (!o.dry_run) summary["seconds"] = seconds;
    fmt::print("{}\n", summary.dump());
    return;
  }
  fmt::print("{}: {} tokens of {} document(s), {} layers x {} KV heads x {}, {}, {} probe(s), {}\n", o.output,
             context.n_tokens(), context.documents.size(), context.model.n_layers, context.model.n_kv_heads,
             context.model.head_dim, name_of(spec.dtype), spec.probes.size(), human_bytes(double(bytes)));
  if (o.dry_run) {
    fmt::print("memory: {} besides the mapped weights. Nothing was written (--dry-run).\n",
               human_bytes(double(memory)));
  } else {
    fmt::print("{:.1f} s, {:.0f} tokens/s\n", seconds, double(context.n_tokens()) / std::max(seconds, 1e-9));
  }
}

int dump_text(const Options& o) {
  if (o.source.model.empty() || o.source.context.empty()) fail_usage("--model and --context are needed (or --from)");
  ContextSource source(o.source, o.common.cuda());
  const DumpSpec spec = {source.dtype(), source.query_positions(), source.probes(), source.probe_texts()};
  if (o.dry_run) {
    print_summary(o, source.context(), spec, source.memory_bytes(), 0);
    return 0;
  }
  const auto start = std::chrono::steady_clock::now();
  KvDumpWriter writer(o.output, source.context(), spec, {o.force, o.resume});
  const int first_layer = writer.n_layers_done();
  if (first_layer > 0) note(o.common, fmt::format("resuming after layer {}", first_layer));
  source.run(
      first_layer, writer.hidden(),
      [&](const PrefilledLayer& layer) { writer.write_layer(layer.layer, layer.context, layer.probes, layer.hidden); },
      terminal_progress(o.common.quiet, "tokens"));
  writer.finish();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  print_summary(o, source.context(), spec, source.memory_bytes(), elapsed.count());
  return 0;
}

int import_file(const Options& o) {
  if (o.common.cuda()) fail_usage("--device {}: an import computes nothing", o.common.device);
  const ImportedDump imported(o.from, parse_dtype(o.source.dtype));
  const DumpSpec spec = {imported.dtype(), imported.query_positions(), {}, {}};
  const auto start = std::chrono::steady_clock::now();
  if (!o.dry_run) {
    KvDumpWriter writer(o.output, imported.context(), spec, {o.force, o.resume});
    for (int layer = writer.n_layers_done(); layer < imported.context().model.n_layers; ++layer) {
      writer.write_layer(layer, imported.layer(layer), {}, {});
    }
    writer.finish();
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  print_summary(o, imported.context(), spec, 0, elapsed.count());
  return 0;
}

int run(const Options& o) { return o.from.empty() ? dump_text(o) : import_file(o); }

}  // namespace
}  // namespace squeeze

int main(int argc, char** argv) { return squeeze::tool_main(argc, argv, squeeze::kText, squeeze::bind, squeeze::run); }
