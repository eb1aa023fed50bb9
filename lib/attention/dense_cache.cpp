// Causal attention over dense caches.
#include "lib/attention/dense_cache.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/core/scratch.hpp"

namespace squeeze {
namespace {

constexpr int64_t kQueryBlock = 16;      // query tokens per task: K and V are streamed once for all of them
constexpr int64_t kSmallWork = 1 << 17;  // multiplications: less than this is done before other threads wake up

// The G query heads of one KV head for tokens [begin, end): gathers, attends part by part, normalises, scatters.
class HeadBlock {
 public:
  HeadBlock(TensorView queries, int64_t kv_head, int64_t group, int64_t begin, int64_t end, CausalScratch& scratch)
      : queries_(queries),
        kv_head_(kv_head),
        group_(group),
        begin_(begin),
        n_((end - begin) * group),
        dim_(queries.size(2)) {
    const int64_t first = (kv_head * queries.size(0) + begin) * group;  // of the block's rows in the scratch
    gathered_ = scratch.queries.f32() + first * dim_;
    acc_ = scratch.acc.f32() + first * dim_;
    max_ = scratch.max.data() + first;
    sum_ = scratch.sum.data() + first;
    visible_ = scratch.visible.data() + first;
    for (int64_t i = 0; i < n_; ++i) std::memcpy(gathered_ + i * dim_, queries_.at(offset(i)), row_bytes());
    std::fill_n(acc_, n_ * dim_, 0.0f);
    std::fill_n(max_, n_, -INFINITY);
    std::fill_n(sum_, n_, 0.0f);
  }

  // Rows of this part are [first_row, first_row + n_rows) of the sequence; token t of the block sees rows up to
  // first_visible + t.
  void attend(const CachePart& part, int64_t first_row, int64_t first_visible, float scale) {
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t seen = first_visible + begin_ + i / group_ + 1 - first_row;
      visible_[i] = std::clamp<int64_t>(seen, 0, part.n_rows);
    }
    const RowRange range{0, static_cast<int32_t>(visible_[n_ - 1])};
    if (range.end == 0) return;
    const bool all = visible_[0] == range.end;
    kernels().attend({.queries = gathered_,
                      .n_queries = n_,
                      .dim = dim_,
                      .scale = scale,
                      .keys = part.keys[kv_head_].data(),
                      .values = part.values[kv_head_].data(),
                      .dtype = part.keys.dtype(),
                      .ranges = &range,
                      .n_ranges = 1,
                      .visible = all ? nullptr : visible_,
                      .row_bias = nullptr,
                      .acc = acc_,
                      .max = max_,
                      .sum = sum_});
  }

  void store(Tensor& out) const {
    for (int64_t i = 0; i < n_; ++i) {
      float* y = out.f32() + offset(i);
      const float inverse = 1.0f / sum_[i];
      for (int64_t c = 0; c < dim_; ++c) y[c] = acc_[i * dim_ + c] * inverse;
    }
  }

 private:
  size_t row_bytes() const { return static_cast<size_t>(dim_) * sizeof(float); }
  // Row i of the block within [n, n_query_heads, head_dim]: tokens first, the heads of a token together.
  int64_t offset(int64_t i) const {
    return ((begin_ + i / group_) * queries_.size(1) + kv_head_ * group_ + i % group_) * dim_;
  }

  TensorView queries_;
  int64_t kv_head_, group_, begin_, n_, dim_;
  float *gathered_, *acc_, *max_, *sum_;  // [n_, dim_] twice, [n_] twice
  int64_t* visible_;                      // [n_]
};

}  // namespace

void causal_attention(TensorView queries, std::span<const CachePart> parts, float softmax_scale, CausalScratch& scratch,
                      Tensor& out) {
  const int64_t n = queries.size(0), n_kv_heads = parts.front().keys.size(0);
  const int64_t group = queries.size(1) / n_kv_heads;
  int64_t n_rows = 0;
  for (const CachePart& part : parts) {
    if (part.n_rows > INT32_MAX) fail("a cache holds at most {} tokens, found {}", INT32_MAX, part.n_rows);
    n_rows += part.n_rows;
  }
  const int64_t n_query_rows = n * queries.size(1);
  scratch.queries.resize(DType::f32, {n_query_rows, queries.size(2)});
  scratch.acc.resize(DType::f32, {n_query_rows, queries.size(2)});
  resize_with_room(scratch.max, static_cast<size_t>(n_query_rows));
  resize_with_room(scratch.sum, static_cast<size_t>(n_query_rows));
  resize_with_room(scratch.visible, static_cast<size_t>(n_query_rows));
  out.resize(DType::f32, queries.shape());
  const int64_t n_blocks = (n + kQueryBlock - 1) / kQueryBlock;
  const auto run = [&](int64_t task) {
    const int64_t begin = task / n_kv_heads * kQueryBlock;
    HeadBlock block(queries, task % n_kv_heads, group, begin, std::min(n, begin + kQueryBlock), scratch);
    int64_t first_row = 0;
    for (const CachePart& part : parts) {
      block.attend(part, first_row, n_rows - n, softmax_scale);
      first_row += part.n_rows;
    }
    block.store(out);
  };
  if (queries.n_elements() * n_rows < kSmallWork) {
    for (int64_t task = 0; task < n_blocks * n_kv_heads; ++task) run(task);
  } else {
    parallel_for(n_blocks * n_kv_heads, run);
  }
}

void store_rows(TensorView rows, int64_t first_row, Tensor& cache) {
  const int64_t n_heads = rows.size(1), dim = rows.size(2), capacity = cache.size(1);
  for (int64_t i = 0; i < rows.size(0); ++i) {
    for (int64_t head = 0; head < n_heads; ++head) {
      kernels().from_f32(rows.f32() + (i * n_heads + head) * dim, dim, cache.dtype(),
                         cache.at((head * capacity + first_row + i) * dim));
    }
  }
}

struct DenseCache::LayerCache {
  Tensor keys, values;  // [n_kv_heads, capacity, head_dim]
  int64_t n_tokens = 0;

  int64_t capacity() const { return keys.data() ? keys.size(1) : 0; }

  void reallocate(const ModelInfo& model, DType dtype, int64_t n) {
    for (Tensor* cache : {&keys, &values}) {
      Tensor moved(dtype, {model.n_kv_heads, n, model.head_dim});
      const size_t head_bytes = static_cast<size_t>(n_tokens * model.head_dim) * size_of(dtype);
      for (int head = 0; n_tokens > 0 && head < model.n_kv_heads; ++head) {
        std::memcpy(moved.at(head * n * model.head_dim), (*cache)[head].data(), head_bytes);
      }
      *cache = std::move(moved);
    }
  }
};

DenseCache::DenseCache(const ModelInfo& model, DType dtype)
    : model_(model), dtype_(dtype), layers_(static_cast<size_t>(model.n_layers)) {}

DenseCache::~DenseCache() = default;

void DenseCache::reserve(int64_t n_tokens) {
  for (LayerCache& cache : layers_) {
    if (n_tokens > cache.capacity()) cache.reallocate(model_, dtype_, n_tokens);
  }
}

TensorView DenseCache::attend(const AttentionInput& input) {
  LayerCache& cache = layers_.at(static_cast<size_t>(input.layer));
  const int64_t n = input.queries.size(0);
  if (input.first_position != cache.n_tokens) {
    fail("the cache of layer {} holds {} tokens, but the next token's position is {}", input.layer, cache.n_tokens,
         input.first_position);
  }
  if (cache.n_tokens + n > cache.capacity()) {
    cache.reallocate(model_, dtype_, std::max<int64_t>({cache.n_tokens + n, 2 * cache.capacity(), 64}));
  }
  store_rows(input.keys, cache.n_tokens, cache.keys);
  store_rows(input.values, cache.n_tokens, cache.values);
  cache.n_tokens += n;
  const CachePart part{cache.keys, cache.values, cache.n_tokens};
  causal_attention(input.queries, {&part, 1}, model_.softmax_scale, scratch_, output_);
  return output_;
}

TensorView DenseCache::keys(int layer) {
  LayerCache& cache = layers_.at(static_cast<size_t>(layer));
  if (cache.keys.shape().rank() == 0 || cache.capacity() != cache.n_tokens)
    cache.reallocate(model_, dtype_, cache.n_tokens);
  return cache.keys;
}

TensorView DenseCache::values(int layer) {
  (void)keys(layer);
  return layers_[static_cast<size_t>(layer)].values;
}

}  // namespace squeeze
