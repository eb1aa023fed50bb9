// Decoding end to end: a Llama-3-like 1B shape with random weights over a made-up context.
#include <fmt/format.h>

#include <random>

#include "lib/core/parallel.hpp"
#include "lib/model/transformer.hpp"
#include "tests/bench/bench.hpp"
#include "tests/bench/made_context.hpp"

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

// Random bf16 weights of a layer, used by every layer from memory of its own.
class RandomWeights {
 public:
  explicit RandomWeights(const ModelConfig& c) {
    weights.embedding = matrix(c.vocab_size, c.hidden_size);
    weights.lm_head = weights.embedding;
    weights.final_norm = ones(c.hidden_size);
    const int64_t q = c.n_query_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim;
    for (int i = 0; i < c.n_layers; ++i) {
      LayerWeights layer;
      layer.attention_norm = layer.mlp_norm = ones(c.hidden_size);
      layer.q = matrix(q, c.hidden_size);
      layer.k = matrix(kv, c.hidden_size);
      layer.v = matrix(kv, c.hidden_size);
      layer.o = matrix(c.hidden_size, q);
      layer.gate = matrix(c.intermediate_size, c.hidden_size);
      layer.up = matrix(c.intermediate_size, c.hidden_size);
      layer.down = matrix(c.hidden_size, c.intermediate_size);
      weights.layers.push_back(layer);
    }
  }
  ModelWeights weights;

 private:
  TensorView matrix(int64_t rows, int64_t columns) {
    Tensor out(DType::bf16, {rows, columns});
    const float size = std::sqrt(3.0f / static_cast<float>(columns));
    for (int64_t i = 0; i < out.n_elements(); ++i) {
      const auto bits = static_cast<float>(random_() >> 8) * 0x1p-23f - 1.0f;
      store_element(out.data(), DType::bf16, i, size * bits);
    }
    owned_.push_back(std::move(out));
    return owned_.back();
  }
  TensorView ones(int64_t n) {
    Tensor out(DType::f32, {n});
    std::fill(out.f32(), out.f32() + n, 1.0f);
    owned_.push_back(std::move(out));
    return owned_.back();
  }
  std::minstd_rand random_{1};
  std::vector<Tensor> owned_;
};

struct ModelSetting {
  const char* name;
  double keys, bytes;
};
constexpr ModelSetting kSettings[] = {{"dense", 0, 0}, {"sparsity 90 %", 0.1, 0}, {"budget 5 %", 0, 0.05}};

std::string row_name(const ModelSetting& setting) { return fmt::format("model 1B 64K {}", setting.name); }

}  // namespace

void model_rows(Bench& bench) {
  std::vector<std::string> names;
  for (const ModelSetting& setting : kSettings) names.push_back(row_name(setting));
  if (!bench.wants_any(names) || bench.options().max_tokens < kTokens) return;
  const int threads = bench.options().threads.back();
  set_threads(threads);
  const ModelConfig config = llama_1b();
  const RandomWeights weights(config);
  Transformer model(config, weights.weights, Precision::bf16);
  model.set_sequence_length(kTokens + 64);
  const MadeContext context({kTokens, 32, 8, 64, config.n_layers});
  double dense_ms = 0;
  for (const ModelSetting& setting : kSettings) {
    const Policy policy = setting.keys > 0    ? keys_policy(context, setting.keys)
                          : setting.bytes > 0 ? bytes_policy(context, setting.bytes)
                                              : dense_policy();
    ContextAttention attention(context.view(), policy, setting.bytes > 0 ? Rest::mean : Rest::drop);
    const std::vector<int32_t> token = {17};
    const auto decode = [&] {
      attention.clear_tail();
      model.forward(token, kTokens, attention);
    };
    const double ms = bench.time(decode);
    if (dense_ms == 0) dense_ms = ms;
    const Usage& usage = attention.usage();
    BenchRow row{row_name(setting), ms, 0, threads, {}, {}, {}};
    if (setting.keys + setting.bytes > 0) row.vs_dense = dense_ms / ms;
    row.note = fmt::format("{:.1f} tokens/s; attention {:.0f} %, lookup {:.0f} %, the rest (matmul) {:.0f} %",
                           1000 / ms, 100 * usage.attention_ms / ms, 100 * usage.lookup_ms / ms,
                           100 * (1 - (usage.attention_ms + usage.lookup_ms) / ms));
    if (bench.wants(row.name)) bench.add(std::move(row));
  }
}

}  // namespace squeeze
