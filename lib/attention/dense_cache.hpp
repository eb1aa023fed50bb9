// Plain causal attention with a growing cache of its own: no fixed context. The truth that the rest is compared with.
#pragma once

#include <span>
#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

// What causal_attention computes in, kept from one call to the next.
struct CausalScratch {
  Tensor queries, acc;  // f32 [query heads of all tokens, head_dim], a KV head's together
  std::vector<float> max, sum;
  std::vector<int64_t> visible;
};

class DenseCache final : public Attention {
 public:
  // Keys and values are kept in `dtype` (f32: exact).
  DenseCache(const ModelInfo& model, DType dtype);
  ~DenseCache() override;
  // Throws unless input.first_position continues the layer's cache.
  TensorView attend(const AttentionInput& input) override;
  void reserve(int64_t n_tokens) override;
  // What the cache of one layer holds: keys and values [n_kv_heads, n_tokens, head_dim]. Valid until the next call of
  // any member (the cache is first shrunk to its content).
  TensorView keys(int layer);
  TensorView values(int layer);

 private:
  struct LayerCache;
  ModelInfo model_;
  DType dtype_;
  std::vector<LayerCache> layers_;
  CausalScratch scratch_;
  Tensor output_;
};

// Consecutive rows of a sequence's keys and values: the first n_rows of every head of [n_kv_heads, capacity, head_dim].
struct CachePart {
  TensorView keys;
  TensorView values;
  int64_t n_rows;
};

// Causal attention of n new tokens over the parts one after the other; the new tokens are their last n rows.
// queries: f32 [n, n_query_heads, head_dim]; so is `out`, whose memory is kept if it suffices. Works in blocks of query
// tokens and KV heads, in parallel; the result does not depend on the number of threads.
void causal_attention(TensorView queries, std::span<const CachePart> parts, float softmax_scale, CausalScratch& scratch,
                      Tensor& out);

// Writes new rows [n, n_kv_heads, head_dim] (f32) as rows [first_row, first_row + n) of a cache
// [n_kv_heads, capacity, head_dim], rounded to its type.
void store_rows(TensorView rows, int64_t first_row, Tensor& cache);

}  // namespace squeeze
