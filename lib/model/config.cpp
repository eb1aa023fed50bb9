// Parsing of config.json.
#include "lib/model/config.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/model/json_fields.hpp"
#include "lib/model/rope_config.hpp"

namespace squeeze {
namespace {

using nlohmann::json;

constexpr int64_t kMaxSize = int64_t{1} << 24;  // of any dimension but the vocabulary; no product of two overflows

struct Family {
  const char* architecture;
  const char* model_type;
  int64_t max_positions;  // the defaults of transformers 5
  int64_t head_dim;       // 0: hidden_size / num_attention_heads
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", 2048, 0},
    {"MistralForCausalLM", "mistral", 131072, 0},
    {"Qwen2ForCausalLM", "qwen2", 32768, 0},
    {"Qwen3ForCausalLM", "qwen3", 32768, 128},
};

std::string architecture_name(const JsonFields& fields) {
  const json* list = fields.find("architectures");
  if (!list) return fields.text_or("model_type", "");
  if (!list->is_array() || list->empty() || !list->front().is_string()) {
    fail("{}: 'architectures' must be a list of names, found {}", fields.source(), list->dump());
  }
  return list->front().get<std::string>();
}

const Family& find_family(const JsonFields& fields) {
  const std::string name = architecture_name(fields);
  for (const Family& family : kFamilies) {
    if (name == family.architecture || (!fields.has("architectures") && name == family.model_type)) return family;
  }
  fail(
      "{}: architecture '{}' is not supported; LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and "
      "Qwen3ForCausalLM are",
      fields.source(), name);
}

void refuse_unsupported(const JsonFields& fields) {
  for (const char* name : {"quantization_config", "num_experts", "num_local_experts", "n_routed_experts"}) {
    if (fields.has(name)) {
      fail("{}: '{}' is set, but quantised and mixture-of-experts models are not supported", fields.source(), name);
    }
  }
  const std::string activation = fields.text_or("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fail("{}: hidden_act '{}' is not supported, only 'silu' is", fields.source(), activation);
  }
}

// Whether some layer attends through a sliding window (all layers that do share sliding_window).
bool has_sliding_layer(const JsonFields& fields, const ModelConfig& config) {
  bool listed = false;
  if (const json* types = fields.find("layer_types")) {
    for (const json& type : *types) {
      if (type != "full_attention" && type != "sliding_attention") {
        fail("{}: layer type {} is not supported, only full_attention and sliding_attention are", fields.source(),
             type.dump());
      }
      listed |= type == "sliding_attention";
    }
  }
  if (config.architecture == "MistralForCausalLM") return true;
  if (fields.has("layer_types") || config.architecture == "LlamaForCausalLM") return listed;
  return config.n_layers > fields.integer_or("max_window_layers", 28, 0, kMaxSize);
}

int64_t parse_sliding_window(const JsonFields& fields, const ModelConfig& config, const json& object) {
  const bool is_qwen = config.qk_norm || config.architecture == "Qwen2ForCausalLM";
  if (is_qwen && !fields.flag_or("use_sliding_window", false)) return 0;
  if (!has_sliding_layer(fields, config)) return 0;
  const bool is_null = object.contains("sliding_window") && !fields.has("sliding_window");
  return is_null ? 0 : fields.integer_or("sliding_window", 4096, 1, INT64_MAX);
}

std::vector<int32_t> parse_eos(const JsonFields& fields) {
  const json* eos = fields.find("eos_token_id");
  if (!eos) return {};
  std::vector<int32_t> ids;
  for (const json& id : eos->is_array() ? *eos : json::array({*eos})) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
      fail("{}: 'eos_token_id' must be a token id or a list of them, found {}", fields.source(), eos->dump());
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void parse_sizes(const JsonFields& fields, const Family& family, ModelConfig& config) {
  config.hidden_size = fields.integer("hidden_size", 1, kMaxSize);
  config.intermediate_size = fields.integer("intermediate_size", 1, kMaxSize);
  config.vocab_size = fields.integer("vocab_size", 1, INT32_MAX);
  config.n_layers = static_cast<int>(fields.integer("num_hidden_layers", 1, 10000));
  const int64_t heads = fields.integer("num_attention_heads", 1, 1 << 14);
  const int64_t kv_heads = fields.integer_or("num_key_value_heads", heads, 1, heads);
  const int64_t derived = family.head_dim ? family.head_dim : config.hidden_size / heads;
  const int64_t head_dim = fields.integer_or("head_dim", derived, 1, kMaxHeadDim);
  if (heads % kv_heads != 0) {
    fail("{}: num_attention_heads ({}) must be a multiple of num_key_value_heads ({})", fields.source(), heads,
         kv_heads);
  }
  if (head_dim < 2 || head_dim > kMaxHeadDim || head_dim % 2 != 0) {
    fail("{}: the head dimension must be even and from 2 to {}, found {}", fields.source(), kMaxHeadDim, head_dim);
  }
  config.n_query_heads = static_cast<int>(heads);
  config.n_kv_heads = static_cast<int>(kv_heads);
  config.head_dim = static_cast<int>(head_dim);
  config.max_positions = fields.integer_or("max_position_embeddings", family.max_positions, 1, INT64_MAX);
}

}  // namespace

float ModelConfig::softmax_scale() const { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim))); }

std::string ModelConfig::rope_json(int64_t sequence_length) const {
  json fields = rope_fields(rope);
  if (sequence_length > 0) fields["sequence_length"] = sequence_length;
  return fields.dump();
}

std::string ModelConfig::canonical_json() const {
  const json fields = {
      {"architecture", architecture}, {"hidden_size", hidden_size}, {"intermediate_size", intermediate_size},
      {"vocab_size", vocab_size},     {"n_layers", n_layers},       {"n_query_heads", n_query_heads},
      {"n_kv_heads", n_kv_heads},     {"head_dim", head_dim},       {"sliding_window", sliding_window},
      {"rms_norm_eps", rms_norm_eps}, {"qkv_bias", qkv_bias},       {"o_bias", o_bias},
      {"mlp_bias", mlp_bias},         {"qk_norm", qk_norm},         {"rope", rope_fields(rope)}};
  return fields.dump();
}

ModelConfig parse_config(std::string_view text, const std::string& source) {
  const json object = parse_json_object(text, source);
  const JsonFields fields(object, source);
  const Family& family = find_family(fields);
  refuse_unsupported(fields);

  ModelConfig config;
  config.architecture = family.architecture;
  parse_sizes(fields, family, config);
  const bool is_llama = config.architecture == "LlamaForCausalLM";
  config.qk_norm = config.architecture == "Qwen3ForCausalLM";
  config.o_bias = (is_llama || config.qk_norm) && fields.flag_or("attention_bias", false);
  config.qkv_bias = config.o_bias || config.architecture == "Qwen2ForCausalLM";
  config.mlp_bias = is_llama && fields.flag_or("mlp_bias", false);
  config.tied_embeddings = fields.flag_or("tie_word_embeddings", false);
  const double eps = fields.number_or("rms_norm_eps", 1e-6);
  if (eps < 0 || eps > 1) fail("{}: rms_norm_eps must be from 0 to 1, found {}", source, eps);
  config.rms_norm_eps = static_cast<float>(eps);
  config.sliding_window = parse_sliding_window(fields, config, object);
  config.rope = parse_rope(fields, config.max_positions, config.head_dim);
  config.eos_tokens = parse_eos(fields);
  return config;
}

std::vector<int32_t> parse_generation_eos(std::string_view text, const std::string& source) {
  const json object = parse_json_object(text, source);
  return parse_eos(JsonFields(object, source));
}

}  // namespace squeeze
