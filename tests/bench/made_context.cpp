// One clustered head, copied.
#include "tests/bench/made_context.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "lib/attention/budget.hpp"
#include "lib/attention/usage.hpp"
#include "lib/core/parallel.hpp"
#include "tests/planted_keys.hpp"

namespace squeeze {
namespace {

HeadIndex copy_of(const HeadIndex& head) {
  HeadIndex out{head.token_of_row, {}, head.sketches, head.inertia};
  for (const Level& level : head.levels) {
    out.levels.push_back({level.centroids.clone(), level.value_means.clone(), level.first_row, level.first_child,
                          level.centroid_scales, level.value_scales});
  }
  return out;
}

Tensor repeated(const Tensor& rows, int n) {
  Tensor out(rows.dtype(), {n, rows.size(1), rows.size(2)});
  parallel_for(n, [&](int64_t i) {
    std::memcpy(out.at(i * rows.n_elements()), rows.data(), static_cast<size_t>(rows.n_bytes()));
  });
  return out;
}

IndexLayer copy_of(const IndexLayer& one, int n_kv_heads) {
  IndexLayer layer{
      repeated(one.keys, n_kv_heads), repeated(one.values, n_kv_heads), {}, one.n_sinks, one.n_window,
  };
  for (int h = 0; h < n_kv_heads; ++h) {
    layer.heads.push_back(copy_of(one.heads[0]));
    layer.key_scales.insert(layer.key_scales.end(), one.key_scales.begin(), one.key_scales.end());
    layer.value_scales.insert(layer.value_scales.end(), one.value_scales.begin(), one.value_scales.end());
  }
  return layer;
}

std::string tokens_str(int64_t n) {
  return n % (1 << 20) == 0 ? fmt::format("{}M", n >> 20) : fmt::format("{}K", n >> 10);
}

IndexOptions index_options(const ContextShape& shape) {
  IndexOptions options;
  options.levels = levels_above({.share = 0.025}, shape.n_tokens);
  options.levels.push_back({.share = 0.025});
  options.iterations = 2;
  options.segment = 4096;
  options.quantise_centroids = true;
  options.quantise_kv = shape.int8;
  options.sketch_group = shape.sketch_group;
  return options;
}

}  // namespace

std::string ContextShape::str() const {
  return fmt::format("{}/{} {}{}{}", n_query_heads, n_kv_heads, tokens_str(n_tokens), int8 ? " int8" : "",
                     sketch_group == 8 ? " half a bit" : "");
}

MadeContext::MadeContext(const ContextShape& shape) : shape_(shape), options_(index_options(shape)) {
  PlantedContext planted = PlantedKeys({.n_tokens = shape.n_tokens, .dim = shape.head_dim, .norm = 14}).make();
  const IndexLayer one = build_layer(planted.keys, planted.keys, options_);
  queries_ = std::move(planted.queries);
  view_.model.n_layers = shape.n_layers;
  view_.model.n_query_heads = shape.n_query_heads;
  view_.model.n_kv_heads = shape.n_kv_heads;
  view_.model.head_dim = shape.head_dim;
  view_.model.softmax_scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  layers_.reserve(static_cast<size_t>(shape.n_layers));
  for (int i = 0; i < shape.n_layers; ++i) {
    layers_.push_back(copy_of(one, shape.n_kv_heads));
    view_.layers.emplace_back();
    for (int h = 0; h < shape.n_kv_heads; ++h) view_.layers.back().push_back(layers_.back().head(h));
  }
}

Tensor MadeContext::queries(int64_t n) const {
  Tensor out(DType::f32, {n, shape_.n_query_heads, shape_.head_dim});
  const int64_t n_questions = queries_.size(0) / 4;
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t h = 0; h < shape_.n_query_heads; ++h) {
      const int64_t question = (h * shape_.n_kv_heads / shape_.n_query_heads + t / 64) % n_questions;
      std::memcpy(out.f32() + (t * shape_.n_query_heads + h) * shape_.head_dim,
                  queries_[question * 4 + (t + h) % 4].f32(), static_cast<size_t>(shape_.head_dim) * sizeof(float));
    }
  }
  return out;
}

Tensor MadeContext::tail(int64_t n) const {
  Tensor out(DType::f32, {n, shape_.n_kv_heads, shape_.head_dim});
  for (int64_t i = 0; i < out.n_elements(); ++i) out.f32()[i] = 0.1f * static_cast<float>(i % 17 - 8);
  return out;
}

namespace {

// The upper levels let through at least twice what is kept.
SelectionRule upper_rule(const MadeContext& context, double share) {
  SelectionRule rule;
  const int64_t n_tokens = context.shape().n_tokens;
  const int64_t n_clustered = context.view().layers[0][0].n_clustered();
  for (const double keep : default_upper_keep(context.options(), n_tokens)) {
    rule.keep_keys.push_back(
        static_cast<int64_t>(std::max(keep, std::min(1.0, 2 * share)) * static_cast<double>(n_clustered)));
  }
  rule.group.size = context.view().model.group_size();
  return rule;
}

}  // namespace

Policy keys_policy(const MadeContext& context, double share) {
  SelectionRule rule = upper_rule(context, share);
  rule.rule = Rule::top_k;
  rule.top_k = static_cast<int64_t>(share * static_cast<double>(context.view().layers[0][0].n_clustered()));
  return rule_policy(rule, context.view().model.softmax_scale);
}

Policy bytes_policy(const MadeContext& context, double share) {
  SelectionRule rule = upper_rule(context, share);
  rule.rule = Rule::bytes;
  rule.rest = Rest::mean;
  rule.sketch_share = sketch_share(context.view().layers[0][0].sketches);
  rule.bytes = share * static_cast<double>(context.shape().n_tokens * kv_bytes(context.view().layers[0][0]));
  return rule_policy(rule, context.view().model.softmax_scale);
}

}  // namespace squeeze
