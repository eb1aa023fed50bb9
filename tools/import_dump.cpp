// Reads another runtime's cache from safetensors.
#include "tools/import_dump.hpp"

#include <cmath>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

int count_layers(const Safetensors& file) {
  int n = 0;
  while (file.contains(fmt::format("layers.{}.keys", n))) ++n;
  if (n == 0) fail("{}: no tensor layers.0.keys; expected what scripts/dump_transformers.py writes", file.path());
  return n;
}

std::string metadata(const Safetensors& file, const std::string& name, const std::string& absent) {
  const auto found = file.metadata().find(name);
  return found == file.metadata().end() ? absent : found->second;
}

float softmax_scale(const Safetensors& file, int64_t head_dim) {
  const std::string text = metadata(file, "softmax_scale", "");
  if (text.empty()) return static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
  char* end = nullptr;
  const float scale = std::strtof(text.c_str(), &end);
  if (*end != '\0' || !(scale > 0) || !std::isfinite(scale)) {
    fail("{}: metadata softmax_scale is '{}'; expected a positive number", file.path(), text);
  }
  return scale;
}

TensorView rank3(const Safetensors& file, const std::string& name) {
  const TensorView view = file.tensor(name);
  if (view.shape().rank() != 3 || view.n_elements() == 0) {
    fail("{}: {} has shape {}; expected [heads, tokens, head_dim], none of them zero", file.path(), name,
         view.shape().str());
  }
  return view;
}

void check_positions(const Safetensors& file, const std::vector<int32_t>& positions, int64_t n_tokens) {
  for (size_t i = 0; i < positions.size(); ++i) {
    if (positions[i] < 0 || positions[i] >= n_tokens || (i > 0 && positions[i] <= positions[i - 1])) {
      fail("{}: query_positions[{}] is {}; expected ascending positions below {}", file.path(), i, positions[i],
           n_tokens);
    }
  }
}

}  // namespace

ImportedDump::ImportedDump(const std::string& path, DType dtype) : dtype_(dtype), file_(path) {
  const TensorView keys = rank3(file_, "layers.0.keys");
  const TensorView queries = rank3(file_, "layers.0.queries");
  ModelInfo& m = context_.model;
  m.model_name = metadata(file_, "model_name", "imported");
  m.model_fingerprint = metadata(file_, "model_fingerprint", "imported");
  m.n_layers = count_layers(file_);
  m.n_kv_heads = static_cast<int>(keys.size(0));
  m.n_query_heads = static_cast<int>(queries.size(0));
  m.head_dim = static_cast<int>(keys.size(2));
  m.softmax_scale = softmax_scale(file_, m.head_dim);
  if (m.n_query_heads % m.n_kv_heads != 0) {
    fail("{}: {} query heads are no multiple of {} KV heads", path, m.n_query_heads, m.n_kv_heads);
  }
  context_.tokens = file_.integers("tokens");
  context_.text = metadata(file_, "text", "");
  context_.documents = {{metadata(file_, "document", path), 0}};
  query_positions_ = file_.integers("query_positions");
  check_positions(file_, query_positions_, context_.n_tokens());
  for (int i = 0; i < m.n_layers; ++i) (void)layer_views(i);
}

KvLayerView ImportedDump::layer_views(int layer) const {
  const ModelInfo& m = context_.model;
  const auto n_queries = static_cast<int64_t>(query_positions_.size());
  return {tensor(layer, "keys", {m.n_kv_heads, context_.n_tokens(), m.head_dim}),
          tensor(layer, "values", {m.n_kv_heads, context_.n_tokens(), m.head_dim}),
          tensor(layer, "queries", {m.n_query_heads, n_queries, m.head_dim})};
}

TensorView ImportedDump::tensor(int layer, const char* part, const Shape& expected) const {
  const std::string name = fmt::format("layers.{}.{}", layer, part);
  const TensorView view = file_.tensor(name);
  if (view.shape() != expected) {
    fail("{}: {} has shape {}; expected {}", file_.path(), name, view.shape().str(), expected.str());
  }
  return view;
}

KvLayer ImportedDump::layer(int layer) const {
  const KvLayerView views = layer_views(layer);
  return {convert(views.keys, dtype_), convert(views.values, dtype_), convert(views.queries, dtype_)};
}

}  // namespace squeeze
