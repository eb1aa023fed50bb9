// Plain causal attention with a growing cache of its own: no fixed context. The truth that the rest is compared with.
#pragma once

#include <vector>

#include "lib/attention/attention.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

class DenseCache final : public Attention {
 public:
  // Keys and values are kept in `dtype` (f32: exact).
  DenseCache(const ModelInfo& model, DType dtype);
  ~DenseCache() override;
  Tensor attend(const AttentionInput& input) override;
  // What the cache of one layer holds: keys and values [n_kv_heads, n_tokens, head_dim].
  TensorView keys(int layer) const;
  TensorView values(int layer) const;

 private:
  struct LayerCache;
  ModelInfo model_;
  DType dtype_;
  std::vector<LayerCache> layers_;
};

// Causal attention of n new tokens over a cache [n_kv_heads, capacity, head_dim] whose first `n_cached` tokens
// (the new ones included) are filled. queries: f32 [n, n_query_heads, head_dim]. Works in blocks of query tokens and
// heads, in parallel; the result does not depend on the number of threads.
Tensor causal_attention(TensorView queries, TensorView keys, TensorView values, int64_t n_cached, float softmax_scale);

}  // namespace squeeze
