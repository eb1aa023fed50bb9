// Made-up indexed contexts of any shape, large enough that no cache holds them.
#pragma once

#include <vector>

#include "lib/attention/context_attention.hpp"
#include "lib/index/build.hpp"

namespace squeeze {

struct ContextShape {
  int64_t n_tokens = 0;
  int n_query_heads = 32;
  int n_kv_heads = 8;
  int head_dim = 128;
  int n_layers = 1;

  int64_t layer_bytes() const { return int64_t{4} * n_tokens * n_kv_heads * head_dim; }  // bf16 keys and values
  std::string str() const;                                                               // "32/8 128K"
};

// Keys of many topics (tests/planted_keys.hpp) as bf16, also used as values. One head is clustered and every head of
// every layer is a copy of it, in memory of its own: what is measured is reading, not how heads differ.
class MadeContext {
 public:
  MadeContext(const ContextShape& shape, const IndexOptions& options);

  const ContextShape& shape() const { return shape_; }
  const IndexOptions& options() const { return options_; }
  const ContextView& view() const { return view_; }
  // f32 [n, n_query_heads, head_dim]: tokens that ask about neighbouring things, each head about its own.
  Tensor queries(int64_t n) const;
  // f32 [n, n_kv_heads, head_dim] of the tail.
  Tensor tail(int64_t n) const;

 private:
  ContextShape shape_;
  IndexOptions options_;
  std::vector<IndexLayer> layers_;
  ContextView view_;
  Tensor queries_;  // f32 [64, head_dim]: four each around 16 questions
};

// 2.5 % leaves with 8-bit centroids and levels above as squeeze-build has them; clustered in short segments and few
// iterations, since only the sizes matter here.
IndexOptions bench_index(int64_t n_tokens, int sketch_bits);

// A policy that reads about this share of the clustered keys by leaves, or of the bytes by sketches.
Policy keys_policy(const MadeContext& context, double share);
Policy bytes_policy(const MadeContext& context, double share);

}  // namespace squeeze
