// Keys, values and queries that another runtime wrote as safetensors (scripts/dump_transformers.py does), as a dump.
#pragma once

#include <string>
#include <vector>

#include "formats/kv_dump.hpp"
#include "formats/safetensors.hpp"
#include "lib/model/context.hpp"

namespace squeeze {

// Expected: layers.N.keys, layers.N.values [n_kv_heads, n_tokens, head_dim]; layers.N.queries [n_query_heads,
// n_queries, head_dim], N from 0; tokens int32 [n_tokens]; query_positions int32 [n_queries]. Metadata: softmax_scale
// (default 1 / sqrt(head_dim)), model_name, text. Throws on anything missing or of another shape or type, naming it.
class ImportedDump {
 public:
  ImportedDump(const std::string& path, DType dtype);

  const Context& context() const { return context_; }
  DType dtype() const { return dtype_; }
  const std::vector<int32_t>& query_positions() const { return query_positions_; }
  KvLayer layer(int layer) const;  // converted to dtype

 private:
  KvLayerView layer_views(int layer) const;
  TensorView tensor(int layer, const char* part, const Shape& expected) const;

  DType dtype_;
  Safetensors file_;
  Context context_;
  std::vector<int32_t> query_positions_;
};

}  // namespace squeeze
