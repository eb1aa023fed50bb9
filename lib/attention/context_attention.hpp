// Attention over a fixed context (clustered, mapped from an index or a dump) and a growing tail: per KV head a policy
// selects context rows, pinned rows are always read, the tail is attended causally.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/attention/lookup.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

// Chooses what a block of queries reads of one KV head. queries: f32 [group_size x n_query_tokens, head_dim].
// Dense, squeezed and every baseline are one of these.
using Policy = std::function<Selection(int layer, int kv_head, const HeadView& head, TensorView queries,
                                       int64_t n_query_tokens)>;

Policy dense_policy();
// The paper's rule with calibrated thresholds for the block's size.
Policy sparsity_policy(const Calibration& calibration, double sparsity, float softmax_scale);
// One fixed rule for every head.
Policy rule_policy(const SelectionRule& rule, float softmax_scale);

// Bytes and keys read, summed over lookups (one lookup = one layer, KV head and query block).
struct Usage {
  int64_t n_lookups = 0;
  int64_t keys_selected = 0;    // clustered keys read
  int64_t keys_clustered = 0;   // clustered keys there are
  int64_t bytes_read = 0;       // K and V of pinned and selected rows, centroids scored, value means of dropped clusters
  int64_t bytes_dense = 0;      // the context's whole K and V
  double lookup_ms = 0;         // wall time, summed over layers
  double attention_ms = 0;

  double budget() const { return bytes_dense ? double(bytes_read) / double(bytes_dense) : 0; }
  double kept() const { return keys_clustered ? double(keys_selected) / double(keys_clustered) : 0; }
  double sparsity() const { return keys_clustered ? 1 - kept() : 0; }
  void add(const Usage& other);
};

// The bytes of one lookup, index bytes included.
Usage usage_of(const HeadView& head, const Selection& selection, Rest rest);

// Softmax attention of f32 queries [n_rows, head_dim] over the pinned and selected context rows and, with Rest::mean,
// over the dropped clusters at their centroids and value means, left un-normalised so that a tail can be added.
struct AttentionState {
  Tensor acc;               // f32 [n_rows, head_dim]
  std::vector<float> max;   // [n_rows]
  std::vector<float> sum;   // [n_rows]

  AttentionState(int64_t n_rows, int64_t head_dim);
  Tensor output() const;    // acc / sum; zero where nothing was attended
};
// visible_tokens: per query row, the number of context tokens it may see (replay of queries inside the context: its
// position + 1); empty: all. Only window rows can be hidden; throws if a clustered row would have to be.
void attend_context(const HeadView& head, const Selection& selection, Rest rest, TensorView queries,
                    float softmax_scale, std::span<const int64_t> visible_tokens, AttentionState& state);

struct ContextView {
  ModelInfo model;
  std::vector<std::vector<HeadView>> layers;  // [n_layers][n_kv_heads]
};

class ContextAttention final : public Attention {
 public:
  // `context` outlives this. Each attend() call is one query block: one selection per KV head.
  ContextAttention(const ContextView& context, Policy policy, Rest rest);
  ~ContextAttention() override;

  Tensor attend(const AttentionInput& input) override;
  void clear_tail();               // forgets the tail and the usage: the next request
  const Usage& usage() const { return usage_; }

 private:
  struct Tail;
  const ContextView& context_;
  Policy policy_;
  Rest rest_;
  std::vector<Tail> tails_;        // one per layer
  Usage usage_;
};

}  // namespace squeeze
