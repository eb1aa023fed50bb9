// Loading of a model directory, and its fingerprint.
#include "formats/hf_model.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/sha256.hpp"
#include "formats/weight_files.hpp"
#include "lib/core/error.hpp"
#include "lib/model/json_fields.hpp"

namespace squeeze {
namespace {

namespace fs = std::filesystem;

constexpr size_t kSampleBytes = 4096;  // of each of kSamples places of a tensor
constexpr size_t kSamples = 8;

ModelConfig read_config(const fs::path& folder) {
  const std::string path = (folder / "config.json").string();
  if (!fs::is_directory(folder)) fail("{}: expected a model directory", folder.string());
  ModelConfig config = parse_config(read_text(path), path);
  const std::string generation = (folder / "generation_config.json").string();
  if (!fs::exists(generation)) return config;
  const std::vector<int32_t> eos = parse_generation_eos(read_text(generation), generation);
  if (!eos.empty()) config.eos_tokens = eos;
  return config;
}

// Finds tensors by their name without the "model." that base-model checkpoints leave out.
class Finder {
 public:
  explicit Finder(const WeightFiles& files)
      : files_(files), prefix_(files.contains("norm.weight") && !files.contains("model.norm.weight") ? "" : "model.") {}

  TensorView operator()(const std::string& name, const Shape& shape) const {
    return files_.tensor(prefix_ + name, shape);
  }
  TensorView optional(bool wanted, const std::string& name, const Shape& shape) const {
    return wanted ? (*this)(name, shape) : TensorView();
  }
  bool contains(const std::string& name) const { return files_.contains(prefix_ + name); }

 private:
  const WeightFiles& files_;
  std::string prefix_;
};

LayerWeights find_layer(const Finder& find, const ModelConfig& c, int layer) {
  const std::string base = fmt::format("layers.{}.", layer);
  const std::string attention = base + "self_attn.", mlp = base + "mlp.";
  const int64_t q_size = int64_t{c.n_query_heads} * c.head_dim, kv_size = int64_t{c.n_kv_heads} * c.head_dim;
  return {.attention_norm = find(base + "input_layernorm.weight", {c.hidden_size}),
          .q = find(attention + "q_proj.weight", {q_size, c.hidden_size}),
          .k = find(attention + "k_proj.weight", {kv_size, c.hidden_size}),
          .v = find(attention + "v_proj.weight", {kv_size, c.hidden_size}),
          .o = find(attention + "o_proj.weight", {c.hidden_size, q_size}),
          .q_bias = find.optional(c.qkv_bias, attention + "q_proj.bias", {q_size}),
          .k_bias = find.optional(c.qkv_bias, attention + "k_proj.bias", {kv_size}),
          .v_bias = find.optional(c.qkv_bias, attention + "v_proj.bias", {kv_size}),
          .o_bias = find.optional(c.o_bias, attention + "o_proj.bias", {c.hidden_size}),
          .q_norm = find.optional(c.qk_norm, attention + "q_norm.weight", {c.head_dim}),
          .k_norm = find.optional(c.qk_norm, attention + "k_norm.weight", {c.head_dim}),
          .mlp_norm = find(base + "post_attention_layernorm.weight", {c.hidden_size}),
          .gate = find(mlp + "gate_proj.weight", {c.intermediate_size, c.hidden_size}),
          .up = find(mlp + "up_proj.weight", {c.intermediate_size, c.hidden_size}),
          .down = find(mlp + "down_proj.weight", {c.hidden_size, c.intermediate_size}),
          .gate_bias = find.optional(c.mlp_bias, mlp + "gate_proj.bias", {c.intermediate_size}),
          .up_bias = find.optional(c.mlp_bias, mlp + "up_proj.bias", {c.intermediate_size}),
          .down_bias = find.optional(c.mlp_bias, mlp + "down_proj.bias", {c.hidden_size})};
}

// A tied model stores the embedding, the head, or both (then each is used, as transformers does).
void find_embeddings(const Finder& find, const WeightFiles& files, const ModelConfig& c, ModelWeights& weights) {
  const Shape shape{c.vocab_size, c.hidden_size};
  const bool has_embedding = find.contains("embed_tokens.weight"), has_head = files.contains("lm_head.weight");
  const bool tied = c.tied_embeddings;
  weights.embedding =
      tied && !has_embedding && has_head ? files.tensor("lm_head.weight", shape) : find("embed_tokens.weight", shape);
  weights.lm_head = tied && !has_head ? weights.embedding : files.tensor("lm_head.weight", shape);
}

ModelWeights find_weights(const WeightFiles& files, const ModelConfig& config) {
  const Finder find(files);
  ModelWeights weights;
  find_embeddings(find, files, config, weights);
  weights.final_norm = find("norm.weight", {config.hidden_size});
  for (int layer = 0; layer < config.n_layers; ++layer) weights.layers.push_back(find_layer(find, config, layer));
  return weights;
}

void hash_tensor(TensorView view, Sha256& hash) {
  hash.add(fmt::format("{} {}\n", view.data() ? name_of(view.dtype()) : "absent", view.shape().str()));
  const char* bytes = static_cast<const char*>(view.data());
  const size_t n = view.data() ? view.n_bytes() : 0;
  if (n <= kSamples * kSampleBytes) return hash.add({bytes, n});
  for (size_t i = 0; i < kSamples; ++i) hash.add({bytes + (n - kSampleBytes) / (kSamples - 1) * i, kSampleBytes});
}

std::string fingerprint_of(const ModelConfig& config, const ModelWeights& weights) {
  Sha256 hash;
  hash.add(config.canonical_json());
  for (const TensorView& view : {weights.embedding, weights.final_norm, weights.lm_head}) hash_tensor(view, hash);
  for (const LayerWeights& w : weights.layers) {
    for (const TensorView& view :
         {w.attention_norm, w.q, w.k, w.v, w.o, w.q_bias, w.k_bias, w.v_bias, w.o_bias, w.q_norm, w.k_norm, w.mlp_norm,
          w.gate, w.up, w.down, w.gate_bias, w.up_bias, w.down_bias}) {
      hash_tensor(view, hash);
    }
  }
  return hash.hex();
}

std::string directory_name(const std::string& directory) {
  const fs::path path = fs::weakly_canonical(fs::path(directory));
  return path.filename().string();
}

}  // namespace

struct HfModel::Impl {
  explicit Impl(const std::string& folder)
      : directory(folder),
        config(read_config(folder)),
        files(folder),
        weights(find_weights(files, config)),
        fingerprint(fingerprint_of(config, weights)) {}

  std::string directory;
  ModelConfig config;
  WeightFiles files;
  ModelWeights weights;
  std::string fingerprint;
};

HfModel::HfModel(const std::string& directory) : impl_(std::make_unique<Impl>(directory)) {}
HfModel::~HfModel() = default;
HfModel::HfModel(HfModel&&) noexcept = default;

const ModelConfig& HfModel::config() const { return impl_->config; }
const ModelWeights& HfModel::weights() const { return impl_->weights; }

ModelInfo HfModel::info() const {
  const ModelConfig& config = impl_->config;
  return {.model_name = directory_name(impl_->directory),
          .model_fingerprint = impl_->fingerprint,
          .n_layers = config.n_layers,
          .n_query_heads = config.n_query_heads,
          .n_kv_heads = config.n_kv_heads,
          .head_dim = config.head_dim,
          .softmax_scale = config.softmax_scale(),
          .rope = config.rope_json()};
}

Tokenizer HfModel::tokenizer() const {
  const fs::path folder(impl_->directory);
  const std::string json_path = (folder / "tokenizer.json").string();
  if (fs::exists(json_path)) return Tokenizer::from_json(read_text(json_path), json_path);
  const std::string model_path = (folder / "tokenizer.model").string();
  if (!fs::exists(model_path)) fail("{}: found neither tokenizer.json nor tokenizer.model", impl_->directory);
  bool add_bos = true;
  const std::string settings_path = (folder / "tokenizer_config.json").string();
  if (fs::exists(settings_path)) {
    const nlohmann::json settings = parse_json_object(read_text(settings_path), settings_path);
    add_bos = JsonFields(settings, settings_path).flag_or("add_bos_token", true);
  }
  return Tokenizer::from_sentencepiece(read_text(model_path), model_path, add_bos);
}

}  // namespace squeeze
