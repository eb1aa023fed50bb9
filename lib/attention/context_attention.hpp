// Attention over a fixed context (clustered, mapped from an index or a dump) and a growing tail: per KV head a policy
// selects context rows, pinned rows are always read, the tail is attended causally.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/attention/context_parts.hpp"
#include "lib/attention/policy.hpp"
#include "lib/attention/usage.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

struct ContextView {
  ModelInfo model;
  std::vector<std::vector<HeadView>> layers;  // [n_layers][n_kv_heads]
  DType float_type = DType::bf16;             // of the tail where the context's keys and values are i8

  DType tail_dtype() const;
};

// Attention over a fixed context that requests share, and the tail of one request.
class TailAttention : public Attention {
 public:
  virtual void clear_tail() = 0;  // forgets the tail and the usage: the next request
  virtual Usage usage() const = 0;
};

// Throws unless the input fits the model and continues a layer of n_tokens tokens, context included.
void check_input(const AttentionInput& input, const ModelInfo& model, int64_t n_tokens);

class ContextAttention final : public TailAttention {
 public:
  // `context` outlives this. The tokens of an attend() call select in blocks of query_block tokens (0: all together),
  // one selection per block and KV head. The tail is kept in context.tail_dtype(). Throws if the view's
  // shapes do not fit its model, or query_block is negative.
  ContextAttention(const ContextView& context, Policy policy, Rest rest, int64_t query_block = 0);
  ~ContextAttention() override;

  // Throws if input.first_position is not the number of tokens in the context and the layer's tail. A call of one token
  // computes in memory that is kept for the next: about one LookupScratch per KV head.
  TensorView attend(const AttentionInput& input) override;
  void reserve(int64_t n_tokens) override;
  void clear_tail() override;
  Usage usage() const override { return usage_; }
  int64_t n_context_tokens() const;

 private:
  struct Tail;
  struct Block;  // query tokens of one KV head that share a selection
  class ScratchPool;
  struct Memory;                 // what a call computes in
  void cut(TensorView queries);  // into blocks
  void make_room(int layer);     // for any lookup and attention of one token
  void look_up(int layer);
  void plan(int layer, int64_t n_tokens);
  void write_output();

  const ContextView& context_;
  Policy policy_;
  Rest rest_;
  int64_t query_block_;
  std::vector<Tail> tails_;  // one per layer
  std::unique_ptr<Memory> memory_;
  Tensor output_;
  Usage usage_;
};

}  // namespace squeeze
