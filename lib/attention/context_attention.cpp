// Sparse attention over a clustered context and a causal tail.
#include "lib/attention/context_attention.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <utility>

#include "lib/attention/dense_cache.hpp"
#include "lib/attention/lookup_scratch.hpp"
#include "lib/core/elapsed.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

// The queries of each KV head: [n_kv_heads, n * group_size, head_dim], a token's heads together.
void gather_queries(TensorView queries, int n_kv_heads, Tensor& out) {
  const int64_t n = queries.size(0), dim = queries.size(2);
  const int64_t row = queries.size(1) / n_kv_heads * dim;
  out.resize(DType::f32, {n_kv_heads, n * row / dim, dim});
  for (int64_t t = 0; t < n; ++t) {
    for (int64_t head = 0; head < n_kv_heads; ++head) {
      std::memcpy(out.f32() + (head * n + t) * row, queries[t].f32() + head * row,
                  static_cast<size_t>(row) * sizeof(float));
    }
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

  void reserve(const ModelInfo& model, DType dtype, int64_t n);
  void append(const AttentionInput& input, const ModelInfo& model, DType dtype);
  AttendPart part(const Block& block, int64_t n_new, int group_size, AttendPart reused) const;
};

// What lookups compute in: as many as there are threads, each in use by one of them, so that it stays in a cache.
class ContextAttention::ScratchPool {
 public:
  void resize(size_t n) {
    scratches_.resize(n);
    free_.clear();
    for (LookupScratch& scratch : scratches_) free_.push_back(&scratch);
  }
  void reserve(const HeadView& head, int64_t n_rows) {
    for (LookupScratch& scratch : scratches_) scratch.reserve(head, n_rows);
  }
  // Calls body(scratch) with one that nobody else has.
  template <class Body>
  void lend(const Body& body) {
    LookupScratch* scratch = take();
    try {
      body(*scratch);
    } catch (...) {
      give(scratch);
      throw;
    }
    give(scratch);
  }

 private:
  LookupScratch* take() {
    const std::lock_guard lock(mutex_);
    LookupScratch* scratch = free_.back();
    free_.pop_back();
    return scratch;
  }
  void give(LookupScratch* scratch) {
    const std::lock_guard lock(mutex_);
    free_.push_back(scratch);
  }

  std::vector<LookupScratch> scratches_;
  std::vector<LookupScratch*> free_;
  std::mutex mutex_;
};

// A call of one token leaves it to the next one; what many tokens need is given back.
struct ContextAttention::Memory {
  Tensor queries;  // f32 [n_kv_heads, n * group_size, head_dim]
  std::vector<Block> blocks;
  ScratchPool lookups;
  std::vector<Selection> selections;  // per block, and so on
  std::vector<AttendWork> work;
  std::vector<AttentionState> states;
  AttendScratch attend;
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

void ContextAttention::Tail::reserve(const ModelInfo& model, DType dtype, int64_t n) {
  const int64_t capacity = keys.shape().rank() == 3 ? keys.size(1) : 0;
  if (n <= capacity) return;
  const Shape shape{model.n_kv_heads, std::max<int64_t>({64, n, 2 * capacity}), model.head_dim};
  keys = grown(keys, n_tokens, dtype, shape);
  values = grown(values, n_tokens, dtype, shape);
}

void ContextAttention::Tail::append(const AttentionInput& input, const ModelInfo& model, DType dtype) {
  const int64_t needed = n_tokens + input.keys.size(0);
  reserve(model, dtype, needed);
  store_rows(input.keys, n_tokens, keys);
  store_rows(input.values, n_tokens, values);
  n_tokens = needed;
}

// The last n_new tokens are the call's own: a token sees the tail up to itself.
AttendPart ContextAttention::Tail::part(const Block& block, int64_t n_new, int group_size, AttendPart reused) const {
  const int64_t n_before = n_tokens - n_new;
  AttendPart part{keys[block.kv_head], values[block.kv_head], std::move(reused.ranges), std::move(reused.visible)};
  part.ranges.assign(1, {0, static_cast<int32_t>(n_before + block.end)});
  part.visible.clear();
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
      tails_(context.layers.size()),
      memory_(std::make_unique<Memory>()) {
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

void ContextAttention::reserve(int64_t n_tokens) {
  for (Tail& tail : tails_) tail.reserve(context_.model, context_.tail_dtype(), n_tokens - n_context_tokens());
}

void check_input(const AttentionInput& input, const ModelInfo& model, int64_t n_tokens) {
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
  if (input.first_position != n_tokens) {
    fail("attention: the next token of layer {} has position {}, found {}", input.layer, n_tokens,
         input.first_position);
  }
}

void ContextAttention::cut(TensorView queries) {
  const int64_t n_tokens = queries.size(0), group_size = context_.model.group_size();
  const int64_t step = query_block_ > 0 ? query_block_ : n_tokens;
  gather_queries(queries, context_.model.n_kv_heads, memory_->queries);
  memory_->blocks.clear();
  for (int64_t begin = 0; begin < n_tokens; begin += step) {
    const int64_t end = std::min(n_tokens, begin + step);
    for (int head = 0; head < context_.model.n_kv_heads; ++head) {
      const TensorView rows = memory_->queries[head].slice(begin * group_size, end * group_size);
      memory_->blocks.push_back({head, begin, end, rows});
    }
  }
  const size_t n_blocks = memory_->blocks.size();
  memory_->lookups.resize(std::min(n_blocks, static_cast<size_t>(n_threads())));
  memory_->selections.resize(n_blocks);
  memory_->work.resize(n_blocks);
  memory_->states.resize(n_blocks);
}

void ContextAttention::make_room(int layer) {
  const std::vector<HeadView>& heads = context_.layers[static_cast<size_t>(layer)];
  const int64_t n_rows = context_.model.group_size();
  for (size_t i = 0; i < heads.size(); ++i) {
    memory_->lookups.reserve(heads[i], n_rows);
    memory_->selections[i].reserve(heads[i], n_rows);
    memory_->work[i].reserve(heads[i], n_rows);
  }
  memory_->attend.reserve(heads, n_rows);
}

void ContextAttention::look_up(int layer) {
  const std::vector<HeadView>& heads = context_.layers[static_cast<size_t>(layer)];
  Memory& m = *memory_;
  parallel_for(std::ssize(m.blocks), [&](int64_t b) {
    const auto i = static_cast<size_t>(b);
    const Block& block = m.blocks[i];
    m.lookups.lend([&](LookupScratch& scratch) {
      scratch.spare = std::move(m.selections[i]);
      m.selections[i] = policy_(layer, block.kv_head, heads[static_cast<size_t>(block.kv_head)], block.queries,
                                block.end - block.begin, scratch);
    });
  });
  for (size_t i = 0; i < m.blocks.size(); ++i) {
    usage_.add(usage_of(heads[static_cast<size_t>(m.blocks[i].kv_head)], m.selections[i], rest_));
  }
}

void ContextAttention::plan(int layer, int64_t n_tokens) {
  const std::vector<HeadView>& heads = context_.layers[static_cast<size_t>(layer)];
  const Tail& tail = tails_[static_cast<size_t>(layer)];
  parallel_for(std::ssize(memory_->blocks), [&](int64_t b) {
    const auto i = static_cast<size_t>(b);
    const Block& block = memory_->blocks[i];
    const HeadView& head = heads[static_cast<size_t>(block.kv_head)];
    const Selection& selection = memory_->selections[i];
    AttendWork& work = memory_->work[i];
    work.queries = block.queries;
    work.parts.resize(2);
    work.parts[0] = row_part(head, selection, {}, std::move(work.parts[0]));
    work.parts[1] = tail.part(block, n_tokens, context_.model.group_size(), std::move(work.parts[1]));
    if (rest_ == Rest::mean) {
      work.rest = rest_part(head, selection, block.queries, context_.model.softmax_scale, std::move(work.rest));
    }
    memory_->states[i].reset(block.queries.size(0), context_.model.head_dim);
  });
}

void ContextAttention::write_output() {
  const int64_t group_size = context_.model.group_size(), dim = context_.model.head_dim;
  for (size_t i = 0; i < memory_->blocks.size(); ++i) {
    const Block& block = memory_->blocks[i];
    for (int64_t row = 0; row < block.queries.size(0); ++row) {
      const int64_t token = block.begin + row / group_size, head = block.kv_head * group_size + row % group_size;
      memory_->states[i].write_output(row, output_.f32() + (token * context_.model.n_query_heads + head) * dim);
    }
  }
}

TensorView ContextAttention::attend(const AttentionInput& input) {
  const auto layer = static_cast<size_t>(input.layer);
  check_input(input, context_.model, n_context_tokens() + (layer < tails_.size() ? tails_[layer].n_tokens : 0));
  const int64_t n = input.queries.size(0);
  output_.resize(DType::f32, input.queries.shape());
  if (n == 0) return output_;

  const auto lookup_start = std::chrono::steady_clock::now();
  cut(input.queries);
  if (n == 1) make_room(input.layer);
  look_up(input.layer);
  usage_.lookup_ms += ms_since(lookup_start);

  const auto attention_start = std::chrono::steady_clock::now();
  tails_[static_cast<size_t>(input.layer)].append(input, context_.model, context_.tail_dtype());
  plan(input.layer, n);
  attend_parts(memory_->work, context_.model.softmax_scale, memory_->states, memory_->attend);
  write_output();
  usage_.attention_ms += ms_since(attention_start);
  if (n > 1) memory_ = std::make_unique<Memory>();
  return output_;
}

}  // namespace squeeze
