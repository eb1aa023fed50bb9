// Decoding end to end: a Llama-3-like 1B shape with random weights over a made-up context.
#include <fmt/format.h>

#include "lib/core/parallel.hpp"
#include "lib/model/transformer.hpp"
#include "tests/bench/bench.hpp"
#include "tests/bench/made_context.hpp"
#include "tests/made_weights.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTokens = 1 << 16;  // of context

ModelConfig llama_1b() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden_size = 2048;
  config.intermediate_size = 8192;
  config.vocab_size = 128256;
  config.n_layers = 16;
  config.n_query_heads = 32;
  config.n_kv_heads = 8;
  config.head_dim = 64;
  config.max_positions = 131072;
  config.tied_embeddings = true;
  config.rope.theta = 500000;
  return config;
}

struct ModelSetting {
  const char* name;
  double keys, bytes;
};
constexpr ModelSetting kSettings[] = {{"dense", 0, 0}, {"sparsity 90 %", 0.1, 0}, {"budget 5 %", 0, 0.05}};
constexpr int kBatch = 4;  // requests at a time, in one more row

std::string row_name(const ModelSetting& setting, int batch = 1) {
  return fmt::format("model 1B 64K {}{}", setting.name, batch > 1 ? fmt::format(", {} at a time", batch) : "");
}

// One token of each of kBatch requests, which share the reading of the weights. alone_ms: of one request's.
void batch_row(Bench& bench, const Transformer& model, const ModelSetting& setting,
               std::vector<std::unique_ptr<ContextAttention>> attentions, double alone_ms) {
  std::vector<SequenceToken> tokens;
  for (const auto& attention : attentions) tokens.push_back({17, kTokens, attention.get()});
  const double ms = bench.time([&] {
    for (const auto& attention : attentions) attention->clear_tail();
    model.forward_each(tokens);
  });
  BenchRow row{row_name(setting, kBatch), ms, 0, bench.options().threads.back(), {}, {}, {}};
  row.note =
      fmt::format("{:.1f} tokens/s, {:.2f} times those of one request", 1000 * kBatch / ms, kBatch * alone_ms / ms);
  bench.add(std::move(row));
}

}  // namespace

void model_rows(Bench& bench) {
  std::vector<std::string> names;
  for (const ModelSetting& setting : kSettings) {
    names.push_back(row_name(setting));
    names.push_back(row_name(setting, kBatch));
  }
  if (!bench.wants_any(names) || bench.options().max_tokens < kTokens) return;
  const int threads = bench.options().threads.back();
  set_threads(threads);
  const ModelConfig config = llama_1b();
  const MadeWeights weights(config);
  Transformer model(config, weights.weights, Precision::bf16);
  model.set_sequence_length(kTokens + 64);
  const MadeContext context({kTokens, 32, 8, 64, config.n_layers});
  double dense_ms = 0;
  for (const ModelSetting& setting : kSettings) {
    const Policy policy = setting.keys > 0    ? keys_policy(context, setting.keys)
                          : setting.bytes > 0 ? bytes_policy(context, setting.bytes)
                                              : dense_policy();
    const Rest rest = setting.bytes > 0 ? Rest::mean : Rest::drop;
    ContextAttention attention(context.view(), policy, rest);
    const std::vector<int32_t> token = {17};
    const auto decode = [&] {
      attention.clear_tail();
      model.forward(token, kTokens, attention);
    };
    const double ms = bench.time(decode);
    if (dense_ms == 0) dense_ms = ms;
    const Usage usage = attention.usage();
    BenchRow row{row_name(setting), ms, 0, threads, {}, {}, {}};
    if (setting.keys + setting.bytes > 0) row.vs_dense = dense_ms / ms;
    row.note = fmt::format("{:.1f} tokens/s; attention {:.0f} %, lookup {:.0f} %, the rest (matmul) {:.0f} %",
                           1000 / ms, 100 * usage.attention_ms / ms, 100 * usage.lookup_ms / ms,
                           100 * (1 - (usage.attention_ms + usage.lookup_ms) / ms));
    if (bench.wants(row.name)) bench.add(std::move(row));
    if (!bench.wants(row_name(setting, kBatch))) continue;
    std::vector<std::unique_ptr<ContextAttention>> batch;
    while (batch.size() < kBatch) batch.push_back(std::make_unique<ContextAttention>(context.view(), policy, rest));
    batch_row(bench, model, setting, std::move(batch), ms);
  }
}

}  // namespace squeeze
