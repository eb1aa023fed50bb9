// Sparse attention over a clustered context and a causal tail.
#include "lib/attention/context_attention.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "lib/attention/dense_cache.hpp"
#include "lib/core/elapsed.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

// The queries of one KV head: [n * group_size, head_dim], a token's heads together.
Tensor gather_queries(TensorView queries, int kv_head, int group_size) {
  const int64_t n = queries.size(0);
  const int64_t row = group_size * queries.size(2);
  Tensor out(DType::f32, {n * group_size, queries.size(2)});
  for (int64_t t = 0; t < n; ++t) {
    std::memcpy(out.f32() + t * row, queries[t].f32() + kv_head * row, static_cast<size_t>(row) * sizeof(float));
  }
  return out;
}

void scatter_output(TensorView rows, int kv_head, int group_size, Tensor& out) {
  const int64_t row = group_size * out.size(2);
  const int64_t stride = out.size(1) * out.size(2);
  for (int64_t t = 0; t < out.size(0); ++t) {
    std::memcpy(out.f32() + t * stride + kv_head * row, rows.f32() + t * row, static_cast<size_t>(row) * sizeof(float));
  }
}

}  // namespace

// The keys and values after the context, of one layer: [n_kv_heads, capacity, head_dim], the first n_tokens filled.
struct ContextAttention::Tail {
  Tensor keys;
  Tensor values;
  int64_t n_tokens = 0;

  void append(TensorView new_keys, TensorView new_values, DType dtype);
  AttendPart part(int kv_head, int64_t n_new, int group_size) const;
};

namespace {

// A copy of `in` [n_kv_heads, n_filled of capacity, head_dim] with room for more tokens.
Tensor grown(const Tensor& in, int64_t n_filled, DType dtype, const Shape& shape) {
  Tensor out(dtype, shape);
  if (n_filled == 0) return out;
  const auto bytes = static_cast<size_t>(n_filled * shape[2]) * size_of(dtype);
  for (int64_t h = 0; h < shape[0]; ++h) {
    std::memcpy(out.at(h * shape[1] * shape[2]), in.view()[h].data(), bytes);
  }
  return out;
}

}  // namespace

void ContextAttention::Tail::append(TensorView new_keys, TensorView new_values, DType dtype) {
  const int64_t needed = n_tokens + new_keys.size(0);
  const int64_t capacity = keys.shape().rank() == 3 ? keys.size(1) : 0;
  if (needed > capacity) {
    const Shape shape{new_keys.size(1), std::max<int64_t>({64, needed, 2 * capacity}), new_keys.size(2)};
    keys = grown(keys, n_tokens, dtype, shape);
    values = grown(values, n_tokens, dtype, shape);
  }
  store_rows(new_keys, n_tokens, keys);
  store_rows(new_values, n_tokens, values);
  n_tokens = needed;
}

// The last n_new tokens are the queries' own: each sees the tail up to itself.
AttendPart ContextAttention::Tail::part(int kv_head, int64_t n_new, int group_size) const {
  AttendPart part{keys[kv_head], values[kv_head], {{0, static_cast<int32_t>(n_tokens)}}, {}, {}};
  for (int64_t t = n_tokens - n_new; t < n_tokens; ++t) {
    part.visible.insert(part.visible.end(), static_cast<size_t>(group_size), t + 1);
  }
  return part;
}

ContextAttention::ContextAttention(const ContextView& context, Policy policy, Rest rest)
    : context_(context), policy_(std::move(policy)), rest_(rest), tails_(context.layers.size()) {
  const ModelInfo& model = context.model;
  if (model.n_layers < 1 || model.n_kv_heads < 1 || model.n_query_heads % model.n_kv_heads != 0 ||
      static_cast<int>(context.layers.size()) != model.n_layers) {
    fail("context: {} layers, {} query heads and {} KV heads, but views of {} layers", model.n_layers,
         model.n_query_heads, model.n_kv_heads, context.layers.size());
  }
  const TensorView& first = context.layers[0].at(0).keys;
  for (const std::vector<HeadView>& heads : context.layers) {
    if (static_cast<int>(heads.size()) != model.n_kv_heads) {
      fail("context: expected {} KV heads in each layer, found {}", model.n_kv_heads, heads.size());
    }
    for (const HeadView& head : heads) {
      if (head.keys.shape() != first.shape() || head.values.shape() != first.shape() ||
          head.keys.dtype() != first.dtype() || head.keys.size(1) != model.head_dim) {
        fail("context: expected keys and values of shape {} with head dimension {}, found {} and {}",
             first.shape().str(), model.head_dim, head.keys.shape().str(), head.values.shape().str());
      }
    }
  }
}

ContextAttention::~ContextAttention() = default;

int64_t ContextAttention::n_context_tokens() const { return context_.layers[0][0].n_tokens(); }

void ContextAttention::clear_tail() {
  for (Tail& tail : tails_) tail.n_tokens = 0;
  usage_ = {};
}

void ContextAttention::check(const AttentionInput& input) const {
  const ModelInfo& model = context_.model;
  if (input.layer < 0 || input.layer >= model.n_layers) {
    fail("attention: layer {} of a context with {} layers", input.layer, model.n_layers);
  }
  const int64_t n = input.queries.size(0);
  const Shape kv_shape{n, model.n_kv_heads, model.head_dim};
  if (input.queries.shape() != Shape{n, model.n_query_heads, model.head_dim} || input.keys.shape() != kv_shape ||
      input.values.shape() != kv_shape) {
    fail("attention: queries {} and keys {} do not fit the context's model ({} query heads, {} KV heads of {})",
         input.queries.shape().str(), input.keys.shape().str(), model.n_query_heads, model.n_kv_heads, model.head_dim);
  }
  const int64_t expected = n_context_tokens() + tails_[static_cast<size_t>(input.layer)].n_tokens;
  if (input.first_position != expected) {
    fail("attention: the next token of layer {} has position {}, found {}", input.layer, expected,
         input.first_position);
  }
}

std::vector<Selection> ContextAttention::look_up(int layer, const std::vector<Tensor>& queries, int64_t n_tokens) {
  const std::vector<HeadView>& heads = context_.layers[static_cast<size_t>(layer)];
  std::vector<Selection> selections(heads.size());
  parallel_for(static_cast<int64_t>(heads.size()), [&](int64_t h) {
    const auto i = static_cast<size_t>(h);
    selections[i] = policy_(layer, static_cast<int>(h), heads[i], queries[i], n_tokens);
  });
  for (size_t i = 0; i < heads.size(); ++i) usage_.add(usage_of(heads[i], selections[i], rest_));
  return selections;
}

std::vector<AttendWork> ContextAttention::plan(int layer, const std::vector<Tensor>& queries,
                                               const std::vector<Selection>& selections, int64_t n_tokens) const {
  const std::vector<HeadView>& heads = context_.layers[static_cast<size_t>(layer)];
  std::vector<AttendWork> work(heads.size());
  parallel_for(static_cast<int64_t>(heads.size()), [&](int64_t h) {
    const auto i = static_cast<size_t>(h);
    work[i] = {queries[i], context_parts(heads[i], selections[i], rest_, {})};
    work[i].parts.push_back(
        tails_[static_cast<size_t>(layer)].part(static_cast<int>(h), n_tokens, context_.model.group_size()));
  });
  return work;
}

Tensor ContextAttention::attend(const AttentionInput& input) {
  check(input);
  const int n_heads = context_.model.n_kv_heads;
  const int group_size = context_.model.group_size();
  const int64_t n = input.queries.size(0);
  Tensor out(DType::f32, input.queries.shape());
  if (n == 0) return out;

  const auto lookup_start = std::chrono::steady_clock::now();
  std::vector<Tensor> queries;
  for (int h = 0; h < n_heads; ++h) queries.push_back(gather_queries(input.queries, h, group_size));
  const std::vector<Selection> selections = look_up(input.layer, queries, n);
  usage_.lookup_ms += ms_since(lookup_start);

  const auto attention_start = std::chrono::steady_clock::now();
  tails_[static_cast<size_t>(input.layer)].append(input.keys, input.values, context_.layers[0][0].keys.dtype());
  std::vector<AttentionState> states;
  for (int h = 0; h < n_heads; ++h) states.emplace_back(n * group_size, context_.model.head_dim);
  attend_parts(plan(input.layer, queries, selections, n), context_.model.softmax_scale, states);
  for (int h = 0; h < n_heads; ++h) scatter_output(states[static_cast<size_t>(h)].output(), h, group_size, out);
  usage_.attention_ms += ms_since(attention_start);
  return out;
}

}  // namespace squeeze
