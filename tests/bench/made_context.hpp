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
  bool int8 = false;     // keys and values, else bf16
  int sketch_group = 4;  // dimensions that four bits of a sketch stand for

  int64_t layer_bytes() const { return (int8 ? 2 : 4) * n_tokens * n_kv_heads * head_dim; }
  std::string str() const;  // "32/8 128K", "32/8 128K int8", "32/8 128K half a bit"
};

// Keys of many topics (tests/planted_keys.hpp) as bf16, also used as values. One head is clustered and every head of
// every layer is a copy of it, in memory of its own: what is measured is reading, not how heads differ.
class MadeContext {
 public:
  // 2.5 % leaves with 8-bit centroids, sketches and levels above as squeeze-build has them; clustered in short
  // segments and few iterations, since only the sizes matter here.
  explicit MadeContext(const ContextShape& shape);

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

// A policy that reads about this share of the clustered keys by leaves, or of the bytes by sketches.
Policy keys_policy(const MadeContext& context, double share);
Policy bytes_policy(const MadeContext& context, double share);

}  // namespace squeeze
