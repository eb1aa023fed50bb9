// The weights of a model, as views: mapped from safetensors, in the file's types.
#pragma once

#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

// Matrices are [out_features, in_features]. Views without data (data() == nullptr) are absent.
struct LayerWeights {
  TensorView attention_norm;  // [hidden]
  TensorView q, k, v, o;      // q: [n_query_heads * head_dim, hidden], k, v: [n_kv_heads * head_dim, ..]
  TensorView q_bias, k_bias, v_bias, o_bias;  // Qwen2 (all four: Llama and Qwen3 with attention_bias)
  TensorView q_norm, k_norm;                  // [head_dim], Qwen3
  TensorView mlp_norm;                        // [hidden]
  TensorView gate, up, down;                  // [intermediate, hidden] twice, [hidden, intermediate]
  TensorView gate_bias, up_bias, down_bias;   // Llama with mlp_bias
};

struct ModelWeights {
  TensorView embedding;   // [vocab, hidden]
  TensorView final_norm;  // [hidden]
  TensorView lm_head;     // [vocab, hidden]; the embedding if tied
  std::vector<LayerWeights> layers;
};

}  // namespace squeeze
