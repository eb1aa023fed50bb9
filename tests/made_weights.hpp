// Random weights of a model's shape, for tests and benchmarks of the forward pass.
#pragma once

#include <cmath>
#include <deque>
#include <random>

#include "lib/model/config.hpp"
#include "lib/model/weights.hpp"

namespace squeeze {

struct MadeWeightsOptions {
  bool qkv_biases = false;  // as Qwen2
  bool qk_norm = false;     // as Qwen3
  DType dtype = DType::bf16;
};

// Matrices of uniform numbers that keep the size of what they multiply; norms of ones, or, with QK-norm, of other
// numbers; the embedding is tied.
class MadeWeights {
 public:
  explicit MadeWeights(const ModelConfig& c, const MadeWeightsOptions& options = {}) : options_(options) {
    weights.embedding = matrix(c.vocab_size, c.hidden_size);
    weights.lm_head = weights.embedding;
    weights.final_norm = ones(c.hidden_size);
    for (int i = 0; i < c.n_layers; ++i) weights.layers.push_back(layer(c));
  }
  ModelWeights weights;

 private:
  LayerWeights layer(const ModelConfig& c) {
    const int64_t q = c.n_query_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim;
    LayerWeights out;
    out.attention_norm = out.mlp_norm = ones(c.hidden_size);
    out.q = matrix(q, c.hidden_size);
    out.k = matrix(kv, c.hidden_size);
    out.v = matrix(kv, c.hidden_size);
    out.o = matrix(c.hidden_size, q);
    out.gate = matrix(c.intermediate_size, c.hidden_size);
    out.up = matrix(c.intermediate_size, c.hidden_size);
    out.down = matrix(c.hidden_size, c.intermediate_size);
    if (options_.qkv_biases) {
      out.q_bias = numbers(q, 0);
      out.k_bias = numbers(kv, 0);
      out.v_bias = numbers(kv, 0);
    }
    if (options_.qk_norm) {
      out.q_norm = numbers(c.head_dim, 1);
      out.k_norm = numbers(c.head_dim, 1);
    }
    return out;
  }

  float random() { return static_cast<float>(random_() >> 8) * 0x1p-23f - 0.5f; }  // about [-0.5, 0.5)

  TensorView matrix(int64_t rows, int64_t columns) {
    Tensor out(options_.dtype, {rows, columns});
    const float size = 2 * std::sqrt(3.0f / static_cast<float>(columns));
    for (int64_t i = 0; i < out.n_elements(); ++i) store_element(out.data(), out.dtype(), i, size * random());
    return owned_.emplace_back(std::move(out));
  }
  TensorView numbers(int64_t n, float mean) {
    Tensor out(options_.dtype, {n});
    for (int64_t i = 0; i < n; ++i) store_element(out.data(), out.dtype(), i, mean + random());
    return owned_.emplace_back(std::move(out));
  }
  TensorView ones(int64_t n) {
    Tensor out(DType::f32, {n});
    std::fill(out.f32(), out.f32() + n, 1.0f);
    return owned_.emplace_back(std::move(out));
  }

  MadeWeightsOptions options_;
  std::minstd_rand random_{1};
  std::deque<Tensor> owned_;
};

}  // namespace squeeze
