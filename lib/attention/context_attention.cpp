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

// The output rows [n * group_size, head_dim] of the tokens from first_token on.
void scatter_output(TensorView rows, int kv_head, int group_size, int64_t first_token, Tensor& out) {
  const int64_t row = group_size * out.size(2);
  const int64_t stride = out.size(1) * out.size(2);
  for (int64_t t = 0; t < rows.size(0) / group_size; ++t) {
    std::memcpy(out.f32() + (first_token + t) * stride + kv_head * row, rows.f32() + t * row,
                static_cast<size_t>(row) * sizeof(float));
  }
}

}  // namespace

DType ContextView::tail_dtype() const {
  const DType dtype = layers[0][0].keys.dtype();
  return dtype == DType::i8 ? float_type : dtype;
}

struct ContextAttention::Block {
  int kv_head;
  int64_t begin, end;  // tokens of the call
  TensorView queries;  // f32 [(end - begin) * group_size, head_dim]
};

// The keys and values after the context, of one layer: [n_kv_heads, capacity, head_dim], the first n_tokens filled.
struct ContextAttention::Tail {
  Tensor keys;
  Tensor values;
  int64_t n_tokens = 0;

  void append(TensorView new_keys, TensorView new_values, DType dtype);
  AttendPart part(const Block& block, int64_t n_new, int group_size) const;
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

// The last n_new tokens are the call's own: a token sees the tail up to itself.
AttendPart ContextAttention::Tail::part(const Block& block, int64_t n_new, int group_size) const {
  const int64_t n_before = n_tokens - n_new;
  AttendPart part{keys[block.kv_head], values[block.kv_head], {{0, static_cast<int32_t>(n_before + block.end)}}, {}};
  for (int64_t t = block.begin; t < block.end; ++t) {
    part.visible.insert(part.visible.end(), static_cast<size_t>(group_size), n_before + t + 1);
  }
  return part;
}

ContextAttention::ContextAttention(const ContextView& context, Policy policy, Rest rest, int64_t query_block)
    : context_(context),
      policy_(std::move(policy)),
      rest_(rest),
      query_block_(query_block),
      tails_(context.layers.size()) {
  if (query_block < 0) fail("the query block must not be negative, found {}", query_block);
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

std::vector<ContextAttention::Block> ContextAttention::blocks_of(const std::vector<Tensor>& queries,
                                                                 int64_t n_tokens) const {
  const int64_t step = query_block_ > 0 ? query_block_ : n_tokens;
  const int64_t group_size = context_.model.group_size();
  std::vector<Block> blocks;
  for (int64_t begin = 0; begin < n_tokens; begin += step) {
    const int64_t end = std::min(n_tokens, begin + step);
    for (int head = 0; head < context_.model.n_kv_heads; ++head) {
      const TensorView rows = queries[static_cast<size_t>(head)];
      blocks.push_back({head, begin, end, rows.slice(begin * group_size, end * group_size)});
    }
  }
  return blocks;
}

std::vector<Selection> ContextAttention::look_up(int layer, const std::vector<Block>& blocks) {
  const std::vector<HeadView>& heads = context_.layers[static_cast<size_t>(layer)];
  std::vector<Selection> selections(blocks.size());
  parallel_for(std::ssize(blocks), [&](int64_t i) {
    const Block& block = blocks[static_cast<size_t>(i)];
    selections[static_cast<size_t>(i)] = policy_(layer, block.kv_head, heads[static_cast<size_t>(block.kv_head)],
                                                 block.queries, block.end - block.begin);
  });
  for (size_t i = 0; i < blocks.size(); ++i) {
    usage_.add(usage_of(heads[static_cast<size_t>(blocks[i].kv_head)], selections[i], rest_));
  }
  return selections;
}

std::vector<AttendWork> ContextAttention::plan(int layer, const std::vector<Block>& blocks,
                                               const std::vector<Selection>& selections, int64_t n_tokens) const {
  const std::vector<HeadView>& heads = context_.layers[static_cast<size_t>(layer)];
  std::vector<AttendWork> work(blocks.size());
  parallel_for(std::ssize(blocks), [&](int64_t b) {
    const auto i = static_cast<size_t>(b);
    work[i] = context_work(heads[static_cast<size_t>(blocks[i].kv_head)], selections[i], rest_, blocks[i].queries,
                           context_.model.softmax_scale, {});
    work[i].parts.push_back(tails_[static_cast<size_t>(layer)].part(blocks[i], n_tokens, context_.model.group_size()));
  });
  return work;
}

Tensor ContextAttention::attend(const AttentionInput& input) {
  check(input);
  const int group_size = context_.model.group_size();
  const int64_t n = input.queries.size(0);
  Tensor out(DType::f32, input.queries.shape());
  if (n == 0) return out;

  const auto lookup_start = std::chrono::steady_clock::now();
  std::vector<Tensor> queries;
  for (int h = 0; h < context_.model.n_kv_heads; ++h) queries.push_back(gather_queries(input.queries, h, group_size));
  const std::vector<Block> blocks = blocks_of(queries, n);
  const std::vector<Selection> selections = look_up(input.layer, blocks);
  usage_.lookup_ms += ms_since(lookup_start);

  const auto attention_start = std::chrono::steady_clock::now();
  tails_[static_cast<size_t>(input.layer)].append(input.keys, input.values, context_.tail_dtype());
  std::vector<AttentionState> states;
  for (const Block& block : blocks) states.emplace_back(block.queries.size(0), context_.model.head_dim);
  attend_parts(plan(input.layer, blocks, selections, n), context_.model.softmax_scale, states);
  for (size_t i = 0; i < blocks.size(); ++i) {
    scatter_output(states[i].output(), blocks[i].kv_head, group_size, blocks[i].begin, out);
  }
  usage_.attention_ms += ms_since(attention_start);
  return out;
}

}  // namespace squeeze
