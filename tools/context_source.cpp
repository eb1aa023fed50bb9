// Model, text and probes for the prefill.
#include "tools/context_source.hpp"

#include <CLI/CLI.hpp>

#include "formats/corpus.hpp"
#include "formats/jsonl.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_operations.hpp"
#include "tools/tool.hpp"

namespace squeeze {

void bind_source(CLI::App& app, SourceOptions& options) {
  app.add_option("--model", options.model, "Hugging Face model directory")->type_name("DIR");
  app.add_option(
         "--context", options.context,
         "The fixed text: a file, a folder (its text files in sorted order) or - for standard input; repeatable")
      ->type_name("FILE|DIR|-");
  app.add_option("--precision", options.precision, "Arithmetic of the forward pass: f32 or bf16 matmuls")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  app.add_option("--dtype", options.dtype, "Type of the stored keys, values and queries")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  app.add_option("--chunk", options.chunk, "Tokens per step inside a layer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
}

DType parse_dtype(const std::string& name) {
  return name == "f32" ? DType::f32 : name == "f16" ? DType::f16 : DType::bf16;
}

Precision parse_precision(const std::string& name) { return name == "f32" ? Precision::f32 : Precision::bf16; }

std::unique_ptr<Operations> operations_for(const std::string& precision, bool cuda, bool graphs) {
  if (!cuda) return cpu_operations(parse_precision(precision));
  if (precision == "f32") fail_usage("--precision f32: a CUDA device computes in bf16 (--device cpu has both)");
  return cuda_operations(graphs);
}

ContextSource::ContextSource(const SourceOptions& options, bool cuda)
    : options_(options),
      cuda_(cuda),
      dtype_(parse_dtype(options.dtype)),
      model_(options.model),
      tokenizer_(model_.tokenizer()) {
  if (cuda && options.precision == "f32") (void)operations_for(options.precision, cuda);
  if (cuda && dtype_ == DType::f32) fail_usage("--dtype f32: a CUDA device keeps keys and values in bf16 or f16");
  context_.model = model_.info();
  encode(options.context);
  context_.model.rope = config().rope_json(context_.n_tokens());
  if (!options.probes.empty()) encode_probes(options.probes);
}

// Documents are encoded one by one, so that each begins at a token; the beginning-of-text token is put before the
// first.
void ContextSource::encode(const std::vector<std::string>& paths) {
  for (const SourceText& source : read_context(paths)) {
    const bool first = context_.tokens.empty();
    context_.documents.push_back({source.name, static_cast<int32_t>(context_.tokens.size())});
    const std::vector<int32_t> tokens =
        first ? tokenizer_.encode_context(source.text) : tokenizer_.encode(source.text, false);
    context_.tokens.insert(context_.tokens.end(), tokens.begin(), tokens.end());
    context_.text += source.text;
  }
  if (context_.text.empty()) fail("the context is empty: --context must name text");
}

void ContextSource::encode_probes(const std::string& path) {
  LineReader lines(path);
  while (const std::optional<RequestLine> line = next_request(lines)) {
    if (!line->request) fail("{}: {}", path, line->error);
    probes_.push_back(tokenizer_.encode(line->request->prompt, false));
    probe_texts_.push_back(line->request->prompt);
    if (probes_.back().empty()) fail("{}: line {}: the prompt is empty", path, line->line);
  }
  if (probes_.empty()) fail("{}: no probe questions found; expected one JSON object with a prompt per line", path);
}

std::vector<int32_t> ContextSource::query_positions() const {
  const int64_t n = context_.n_tokens();
  std::vector<int32_t> positions;
  for (int64_t p = std::max<int64_t>(0, n - options_.window); p < n; ++p) positions.push_back(static_cast<int32_t>(p));
  return positions;
}

int64_t ContextSource::memory_bytes() const {
  int64_t tokens = context_.n_tokens();
  for (const auto& probe : probes_) tokens += static_cast<int64_t>(probe.size());
  const ModelConfig& c = config();
  const auto element = static_cast<int64_t>(options_.precision == "f32" ? 4 : size_of(dtype_));
  const int64_t hidden = tokens * c.hidden_size * 4;
  const int64_t cache = 2 * tokens * c.n_kv_heads * c.head_dim * element;
  const int64_t activations = options_.chunk * (4 * c.hidden_size + 3 * c.intermediate_size) * 4;
  return hidden + cache + activations;
}

void ContextSource::run(int first_layer, Tensor hidden, const std::function<void(const PrefilledLayer&)>& sink,
                        const Progress& progress) {
  if (first_layer == model_.config().n_layers) return;
  Transformer transformer(model_.config(), model_.weights(), operations_for(options_.precision, cuda_));
  PrefillOptions options;
  options.chunk = options_.chunk;
  options.n_queries = static_cast<int64_t>(query_positions().size());
  options.dtype = dtype_;
  options.first_layer = hidden.data() ? first_layer : 0;  // without saved hidden states, from the start
  options.hidden = std::move(hidden);
  prefill(transformer, context_.tokens, probes_, std::move(options), sink, progress);
}

}  // namespace squeeze
