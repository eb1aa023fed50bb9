// Two indexed layers as a context, their calibration, and new tokens, for tests of attention on a CUDA device.
#pragma once

#include <doctest/doctest.h>

#include <memory>

#include "lib/attention/cuda_attention.hpp"
#include "lib/attention/policy.hpp"
#include "lib/core/error.hpp"
#include "lib/index/quantise_kv.hpp"
#include "tests/made_attention.hpp"
#include "tests/made_model.hpp"

namespace squeeze {

struct IndexedOptions {
  std::vector<ClusterCount> levels = {{.count = 6}, {.count = 40}};
  int bits = 1;
  bool quantise = true;
  int group = 2;
  int64_t dim = 64;
  bool bytes = false;  // keys and values
};

struct Indexed {
  static constexpr int64_t kNewTokens = 11;

  explicit Indexed(const IndexedOptions& o = {})
      : made(made_model({.index = {.levels = o.levels, .bits = o.bits, .quantise = o.quantise},
                         .group_size = o.group,
                         .head_dim = o.dim})),
        calibration(made.calibrated()) {
    view.model = model_of(2 * o.group, 2, static_cast<int>(o.dim));
    view.model.n_layers = 2;
    view.model.softmax_scale = MadeModel::kScale;
    for (IndexLayer& layer : made.layers) {
      if (o.bytes) quantise_kv(layer);
      view.layers.push_back(heads_of(layer));
    }
    n_tokens = view.layers[0][0].n_tokens();
    tokens = std::make_unique<NewTokens>(view.model, kNewTokens);
    // Queries among the topics of the keys, so that there is something to find.
    const Tensor near = topic_keys(2 * o.group, kNewTokens, o.dim, 30, 0);
    for (int64_t i = 0; i < near.n_elements(); ++i) {
      const int64_t head = i / (kNewTokens * o.dim), token = i / o.dim % kNewTokens;
      tokens->queries.f32()[(token * 2 * o.group + head) * o.dim + i % o.dim] = near.f32()[i];
    }
  }
  Rules rules(const char* name, double value, Rest rest = Rest::mean) const {
    return make_rules(name, inputs(value, rest));
  }
  Policy policy(const char* name, double value, Rest rest = Rest::mean) const {
    return make_policy(name, inputs(value, rest));
  }
  PolicyInputs inputs(double value, Rest rest) const {
    return {.value = value, .calibration = &calibration, .softmax_scale = MadeModel::kScale, .rest = rest};
  }

  MadeModel made;
  Calibration calibration;
  ContextView view;
  int64_t n_tokens = 0;
  std::unique_ptr<NewTokens> tokens;
};

// The context on a device that has room for the index and this share of the keys and values.
inline std::shared_ptr<const CudaContext> upload_share(Operations& cuda, const Indexed& context, double share) {
  const ModelInfo& model = context.view.model;
  const int64_t kv_bytes = int64_t{model.n_layers} * model.n_kv_heads * context.n_tokens * 4 * model.head_dim;
  for (int64_t index_bytes = kv_bytes / 16;; index_bytes += kv_bytes / 16) {
    try {
      (void)upload_context(cuda, context.view, index_bytes);
    } catch (const Error&) {
      if (index_bytes > 2 * kv_bytes) throw;  // an index is never that large
      continue;
    }
    return upload_context(cuda, context.view,
                          index_bytes + static_cast<int64_t>(share * static_cast<double>(kv_bytes)));
  }
}

inline void check_same_bytes_read(const Usage& x, const Usage& y) {
  CHECK(x.n_lookups == y.n_lookups);
  CHECK(x.keys_clustered == y.keys_clustered);
  CHECK(x.bytes_dense == y.bytes_dense);
  CHECK(x.keys_selected == y.keys_selected);
  CHECK(x.bytes_read == y.bytes_read);
}

}  // namespace squeeze
