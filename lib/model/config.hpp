// The model's shape and constants, from a Hugging Face config.json.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/model/context.hpp"

namespace squeeze {

enum class RopeScaling { none, linear, dynamic, llama3, yarn };

// As transformers defines them (modeling_rope_utils).
struct RopeConfig {
  RopeScaling scaling = RopeScaling::none;
  double theta = 10000;
  double factor = 1;
  int64_t original_positions = 0;  // original_max_position_embeddings; dynamic: max_position_embeddings
  double low_freq_factor = 1, high_freq_factor = 4;                      // llama3
  double beta_fast = 32, beta_slow = 1, mscale = 0, mscale_all_dim = 0;  // yarn
  double attention_factor = 0;                                           // yarn; 0: derived from factor
  bool truncate = true;                                                  // yarn
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t vocab_size = 0;
  int n_layers = 0;
  int n_query_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  int64_t max_positions = 0;
  int64_t sliding_window = 0;  // 0: none; a longer sequence is refused, since no layer masks what left its window
  float rms_norm_eps = 1e-6f;
  bool qkv_bias = false;  // Qwen2; Llama and Qwen3 with attention_bias
  bool o_bias = false;    // Llama and Qwen3 with attention_bias
  bool mlp_bias = false;  // Llama
  bool qk_norm = false;   // Qwen3
  bool tied_embeddings = false;
  RopeConfig rope;
  std::vector<int32_t> eos_tokens;

  float softmax_scale() const;
  // theta, kind and parameters; with the length that the frequencies are for if sequence_length > 0.
  std::string rope_json(int64_t sequence_length = 0) const;
  // Every field that changes what the model computes, as JSON with sorted keys: the config's part of the fingerprint.
  std::string canonical_json() const;
};

// `source` names the file in errors. Throws on an unsupported architecture or feature, naming it.
// Reads the spellings of transformers 4 (rope_theta, rope_scaling) and 5 (rope_parameters); absent fields have the
// defaults of transformers 5.
ModelConfig parse_config(std::string_view json, const std::string& source);

// The eos_token_id (a number or a list) of a generation_config.json; empty if it has none.
std::vector<int32_t> parse_generation_eos(std::string_view json, const std::string& source);

}  // namespace squeeze
