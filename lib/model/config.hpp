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
  int64_t original_positions = 0;  // original_max_position_embeddings, or max_position_embeddings
  double low_freq_factor = 1, high_freq_factor = 4;                        // llama3
  double beta_fast = 32, beta_slow = 1, mscale = 0, mscale_all_dim = 0;    // yarn
  double attention_factor = 0;                                             // yarn; 0: derived from factor
  bool truncate = true;                                                    // yarn
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
  int64_t sliding_window = 0;  // 0: none
  float rms_norm_eps = 1e-6f;
  bool qkv_bias = false;
  bool qk_norm = false;
  bool tied_embeddings = false;
  RopeConfig rope;
  std::vector<int32_t> eos_tokens;

  float softmax_scale() const;
  std::string rope_json() const;
};

// `source` names the file in errors. Throws on an unsupported architecture or feature, naming it.
ModelConfig parse_config(std::string_view json, const std::string& source);

}  // namespace squeeze
