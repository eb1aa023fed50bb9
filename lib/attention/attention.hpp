// The seam between the forward pass and attention: one call per layer, queries, new keys and values in, output out.
#pragma once

#include <cstdint>
#include <span>

#include "lib/core/error.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {

// The projections of n consecutive tokens of one layer, after RoPE.
struct AttentionInput {
  int layer;
  int64_t first_position;  // position of the first token in the whole sequence, context included
  TensorView queries;      // f32 [n, n_query_heads, head_dim]
  TensorView keys;         // f32 [n, n_kv_heads, head_dim]
  TensorView values;       // f32 [n, n_kv_heads, head_dim]
};

// The projections of the next token of each of n sequences in one layer.
struct StepInput {
  int layer;
  TensorView queries;  // f32 [n, n_query_heads, head_dim]
  TensorView keys;     // f32 [n, n_kv_heads, head_dim]
  TensorView values;   // f32 [n, n_kv_heads, head_dim]
};

class Attention {
 public:
  virtual ~Attention() = default;
  // Appends the keys and values to the layer's cache and returns the causal attention output,
  // f32 [n, n_query_heads, head_dim], valid until the next call.
  virtual TensorView attend(const AttentionInput& input) = 0;

  // A step: the next token of each of several sequences, which have an attention each, of which this is one. all and
  // positions: [n]. False, and nothing is done, if they cannot be attended to at once; else all is made ready for
  // attend_step() of every layer, in their order, by any of them.
  virtual bool begin_step(std::span<Attention* const> /*all*/, std::span<const int64_t> /*positions*/) { return false; }
  // attend() of all. `out` becomes f32 [n, n_query_heads, head_dim]. Operations::repeat may do it again for another
  // step of the same sequences.
  virtual void attend_step(const StepInput& /*input*/, Tensor& /*out*/) { fail("attention: no step was begun"); }

  // A sequence of this many tokens is to be expected: caches may make room for it at once.
  virtual void reserve(int64_t /*n_tokens*/) {}
};

}  // namespace squeeze
