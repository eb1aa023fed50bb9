// One forward pass for Llama, Mistral, Qwen2 and Qwen3: whole (all layers for a chunk of tokens) or by layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/model/config.hpp"
#include "lib/model/operations.hpp"
#include "lib/model/weights.hpp"

namespace squeeze {

// The next token of a sequence that an attention holds.
struct SequenceToken {
  int32_t token;
  int64_t position;
  Attention* attention;
};

// What it returns as a view is valid until the next call of any function that computes. One pass at a time.
class Transformer {
 public:
  // The weights' memory outlives this. bf16: matmuls take bf16 inputs and accumulate in float32; the rest is float32.
  Transformer(const ModelConfig& config, const ModelWeights& weights, Precision precision);
  // The same on another device: hidden states and what attention gets and returns are in its memory, logits on the
  // host.
  Transformer(const ModelConfig& config, const ModelWeights& weights, std::unique_ptr<Operations> operations);
  ~Transformer();

  const ModelConfig& config() const;
  Precision precision() const;
  Operations& operations() const;

  // Fixes the RoPE frequencies for a sequence of this many tokens ("dynamic" scaling depends on it; it never shrinks).
  void set_sequence_length(int64_t n_tokens);
  int64_t sequence_length() const;
  // Throws if a sequence of this many tokens does not fit into the model's sliding window.
  void check_length(int64_t n_tokens) const;

  // f32 [n, hidden]. Throws on a token that is not in the vocabulary.
  Tensor embed(std::span<const int32_t> tokens) const;
  // One layer over n consecutive tokens, in place. hidden: f32 [n, hidden].
  void forward_layer(int layer, int64_t first_position, Attention& attention, float* hidden, int64_t n) const;
  // f32 [n, vocab], on the host, from hidden states f32 [n, hidden] after the last layer.
  TensorView logits(TensorView hidden) const;

  // One token of each of several sequences, which share the reading of the weights: logits, f32 [n, vocab], on the
  // host. Every sequence has an attention of its own.
  TensorView forward_each(std::span<const SequenceToken> tokens) const;

  // The same, then the token with the largest logit of each, the lowest of equals: logits stay where they are computed.
  // Throws as check_logits (sampler.hpp) does.
  std::span<const int32_t> greedy_each(std::span<const SequenceToken> tokens) const;

  // All layers over consecutive tokens: f32 [n, hidden], what logits() takes. Throws if there are no tokens.
  TensorView hidden_states(std::span<const int32_t> tokens, int64_t first_position, Attention& attention) const;
  // The same, then the logits of the last token, f32 [1, vocab], or of all tokens, f32 [n, vocab].
  TensorView forward(std::span<const int32_t> tokens, int64_t first_position, Attention& attention,
                     bool all_logits = false) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace squeeze
