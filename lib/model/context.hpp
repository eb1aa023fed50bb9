// What a KV dump and an index both say about the model and the fixed text they come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

struct ModelInfo {
  std::string model_name;
  std::string model_fingerprint;  // SHA-256 in hex over config, weight headers and a sample of each tensor
  int n_layers = 0;
  int n_query_heads = 0;
  int n_kv_heads = 0;
  int head_dim = 0;
  float softmax_scale = 0;  // multiplies q·k
  std::string rope = "{}";  // JSON: theta, scaling kind and parameters, and the length the frequencies are for

  int group_size() const { return n_query_heads / n_kv_heads; }
};

struct Document {
  std::string name;         // UTF-8; a file name as given or found
  int32_t first_token = 0;  // its tokens end where the next document begins
};

struct Context {
  ModelInfo model;
  std::vector<int32_t> tokens;      // [n_tokens]
  std::string text;                 // the fixed text; empty if unknown
  std::vector<Document> documents;  // ascending first_token; may be empty

  int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
};

// One layer's recorded cache. Post-RoPE keys and queries.
struct KvLayer {
  Tensor keys;     // [n_kv_heads, n_tokens, head_dim]
  Tensor values;   // [n_kv_heads, n_tokens, head_dim]
  Tensor queries;  // [n_query_heads, n_queries, head_dim]
};

}  // namespace squeeze
