// One layer at a time: the new rows to the tail, selections by blocks of query tokens, attention over what they chose.
#include "lib/attention/cuda_attention.hpp"

#include <algorithm>
#include <utility>

#include "kernels/cuda/attend_decode.hpp"
#include "kernels/cuda/attend_prefill.hpp"
#include "kernels/cuda/forward_ops.hpp"
#include "lib/attention/cuda_engine.hpp"
#include "lib/attention/cuda_placement.hpp"
#include "lib/attention/cuda_tail.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_device_operations.hpp"

namespace squeeze {
namespace {

constexpr int kDenseBlock = 64;  // query tokens that read everything together

static_assert(kMostCudaRows == cuda::kMaxGroup);

CudaOperations& device(Operations& operations) {
  auto* cuda = dynamic_cast<CudaOperations*>(&operations);
  if (!cuda) fail("attention on a CUDA device needs a forward pass on one");
  return *cuda;
}

// Consecutive query tokens in blocks of one size.
struct Blocks {
  int64_t first, n, tokens;  // the first token, how many blocks, of how many tokens
};

class CudaAttention final : public TailAttention {
 public:
  CudaAttention(std::shared_ptr<CudaEngine> engine, int64_t query_block)
      : engine_(std::move(engine)),
        query_block_(query_block),
        tails_(engine_->context->layers.size()),
        counts_(engine_->stream()) {
    if (query_block < 0) fail("the query block must not be negative, found {}", query_block);
  }

  TensorView attend(const AttentionInput& input) override {
    check(input);
    const int64_t n = input.queries.size(0);
    Tensor& output = engine_->output;
    output.resize(DType::f32, input.queries.shape());
    if (n == 0) return output;
    append(input, tail(input.layer));
    if (engine_->plan(input.layer, 1).dense) {
      attend_densely(input);
    } else {
      const int64_t most = std::min<int64_t>(n, kMostCudaRows / model().group_size());
      const int64_t tokens = query_block_ > 0 ? std::min(query_block_, most) : most;
      attend_blocks(input, {0, n / tokens, tokens});
      if (n % tokens != 0) attend_blocks(input, {n - n % tokens, 1, n % tokens});
    }
    return output;
  }

  // All that a step changes on the host: tails, their lengths, what is counted whatever is selected.
  bool begin_step(std::span<Attention* const> attentions, std::span<const int64_t> positions) override {
    std::vector<CudaAttention*> all;
    for (Attention* each : attentions) {
      auto* own = dynamic_cast<CudaAttention*>(each);
      if (!own || own->engine_ != engine_) return false;
      all.push_back(own);
    }
    const auto n_layers = static_cast<int>(tails_.size());
    for (size_t i = 0; i < all.size(); ++i) {
      for (int layer = 0; layer < n_layers; ++layer) all[i]->check_position(layer, positions[i]);
    }
    std::vector<int64_t*> totals;
    for (CudaAttention* own : all) totals.push_back(own->counts_.totals());
    engine_->set_totals(std::move(totals));
    for (int layer = 0; layer < n_layers; ++layer) {
      lengthen(all, layer);
      const CudaPlan& rule = engine_->plan(layer, 1);
      for (CudaAttention* own : all) own->count(layer, model().n_kv_heads, rule);
    }
    std::vector<int32_t> lengths;
    for (CudaAttention* own : all) {
      lengths.insert(lengths.end(), static_cast<size_t>(model().n_kv_heads),
                     static_cast<int32_t>(own->tails_[0].n_tokens));
    }
    engine_->set_tail_lengths(std::move(lengths));
    return true;
  }

  void attend_step(const StepInput& input, Tensor& out) override {
    const int64_t n = input.queries.size(0), n_kv_heads = model().n_kv_heads;
    out.resize(DType::f32, input.queries.shape());
    const CudaEngine::TailRows& tails = engine_->tail_rows[static_cast<size_t>(input.layer)];
    cuda::append_each({input.keys.f32(), input.values.f32(), n, static_cast<int>(n_kv_heads), model().head_dim,
                       tails.keys_of.data(), tails.values_of.data(), engine_->context->dtype, engine_->tail_lengths()},
                      stream());
    const CudaPlan& rule = engine_->plan(input.layer, 1);
    const int group = model().group_size();
    const int64_t step = rule.dense ? kMostCudaWorks / n_kv_heads : engine_->blocks_at_once(input.layer, rule, group);
    for (int64_t first = 0; first < n; first += step) {
      const int64_t n_here = std::min(step, n - first), floats = int64_t{model().n_query_heads} * model().head_dim;
      auto a = engine_->arguments<cuda::AttendDecodeArgs>(input.layer);
      a.queries = input.queries.f32() + first * floats;
      a.out = out.f32() + first * floats;
      a.n_works = static_cast<int>(n_here * n_kv_heads);
      a.group = a.heads_per_token = group;
      a.n_tails = a.n_works;
      a.tail_keys_of = tails.keys_of.data() + first * n_kv_heads;
      a.tail_values_of = tails.values_of.data() + first * n_kv_heads;
      a.n_tail = engine_->tail_lengths() + first * n_kv_heads;
      engine_->select_and_attend(input.layer, rule.dense ? nullptr : &rule, engine_->totals() + first, n_here, a);
    }
  }

  void reserve(int64_t n_tokens) override {
    for (CudaTail& tail : tails_) make_room(n_tokens - engine_->context->n_tokens, tail);
  }

  void clear_tail() override {
    for (CudaTail& tail : tails_) tail.n_tokens = 0;
    usage_ = {};
    counts_.clear();
  }

  Usage usage() const override {
    Usage all = usage_;
    counts_.add_usage(engine_->context->layers[0], all);
    return all;
  }

 private:
  const ModelInfo& model() const { return engine_->model(); }
  cuda::Stream stream() const { return engine_->stream().get(); }
  CudaTail& tail(int layer) { return tails_[static_cast<size_t>(layer)]; }
  const HeadView& head(int layer) const { return engine_->layer(layer).heads[0]; }

  void check(const AttentionInput& input) const {
    const auto number = static_cast<size_t>(input.layer);
    check_input(input, model(), engine_->context->n_tokens + (number < tails_.size() ? tails_[number].n_tokens : 0));
  }

  void check_position(int layer, int64_t position) const {
    const int64_t next = engine_->context->n_tokens + tails_[static_cast<size_t>(layer)].n_tokens;
    if (position != next)
      fail("attention: the next token of layer {} has position {}, found {}", layer, next, position);
  }

  // Room for n rows in the tail of a layer.
  void make_room(int64_t n, CudaTail& tail) {
    tail.make_room(n, model().n_kv_heads, model().head_dim, engine_->context->dtype, engine_->stream());
  }

  void append(const AttentionInput& input, CudaTail& tail) {
    make_room(tail.n_tokens + input.keys.size(0), tail);
    engine_->cuda.store_rows(input.keys, tail.n_tokens, tail.keys);
    engine_->cuda.store_rows(input.values, tail.n_tokens, tail.values);
    tail.n_tokens += input.keys.size(0);
  }

  // Room for one row more in the tail of each.
  void lengthen(const std::vector<CudaAttention*>& all, int layer) {
    std::vector<void*> keys, values;
    for (CudaAttention* own : all) {
      CudaTail& tail = own->tail(layer);
      own->make_room(tail.n_tokens + 1, tail);
      ++tail.n_tokens;
      for (int64_t h = 0; h < model().n_kv_heads; ++h) {
        keys.push_back(tail.keys.at(h * tail.capacity() * model().head_dim));
        values.push_back(tail.values.at(h * tail.capacity() * model().head_dim));
      }
    }
    engine_->tail_rows[static_cast<size_t>(layer)].set(std::move(keys), std::move(values), engine_->stream());
  }

  template <class Args>
  Args arguments(const AttentionInput& input, int64_t first_token) {
    const CudaTail& own = tail(input.layer);
    const int64_t token_size = int64_t{model().n_query_heads} * model().head_dim;
    Args a = engine_->arguments<Args>(input.layer);
    a.queries = input.queries.f32() + first_token * token_size;
    a.out = engine_->output.f32() + first_token * token_size;
    a.tail_keys = own.keys.data();
    a.tail_values = own.values.data();
    a.tail_capacity = own.capacity();
    return a;
  }

  void attend_densely(const AttentionInput& input) {
    const auto n = static_cast<int>(input.queries.size(0));
    if (n == 1) {
      attend_selected(input, {0, 1, 1}, nullptr);
    } else {
      auto a = arguments<cuda::AttendPrefillArgs>(input, 0);
      a.n_queries = n;
      a.n_query_heads = model().n_query_heads;
      a.block_tokens = kDenseBlock;
      a.n_rows = engine_->all_rows((n + kDenseBlock - 1) / kDenseBlock);
      a.n_tail_before = static_cast<int>(tail(input.layer).n_tokens) - n;
      a.workspace = engine_->prefill_space.of(
          cuda::attend_prefill_workspace_bytes(n, a.n_query_heads, a.n_kv_heads, a.head_dim, kDenseBlock), {n},
          engine_->stream());
      cuda::attend_prefill(a, stream());
    }
    // As many lookups as the CPU counts: a block of tokens, a KV head.
    const int64_t block = query_block_ > 0 ? query_block_ : n;
    const int64_t n_lookups = (n + block - 1) / block * model().n_kv_heads;
    count(input.layer, n_lookups, engine_->plan(input.layer, 1));
    if (n > 1 && engine_->layer(input.layer).on_host) {  // read in place, cached or not
      usage_.bytes_from_host += n_lookups * engine_->context->n_tokens * device_row_bytes(head(input.layer));
    }
  }

  // Everything but what lookups selected.
  void count(int layer, int64_t n_lookups, const CudaPlan& rule) {
    const HeadView& own = head(layer);
    usage_.n_lookups += n_lookups;
    usage_.keys_clustered += n_lookups * own.n_clustered();
    usage_.bytes_read += n_lookups * pinned_bytes(own);
    usage_.bytes_dense += n_lookups * own.n_tokens() * kv_bytes(own);
    if (!rule.dense) return counts_.add_fixed(engine_->layer(layer), rule, n_lookups);
    usage_.keys_selected += n_lookups * own.n_clustered();
    usage_.bytes_read += n_lookups * own.n_clustered() * kv_bytes(own);
  }

  // As many blocks at a time as the buffers of a lookup may hold.
  void attend_blocks(const AttentionInput& input, const Blocks& all) {
    const CudaPlan& rule = engine_->plan(input.layer, all.tokens);
    const int64_t step =
        engine_->blocks_at_once(input.layer, rule, static_cast<int>(all.tokens) * model().group_size());
    for (int64_t done = 0; done < all.n; done += step) {
      attend_selected(input, {all.first + done * all.tokens, std::min(step, all.n - done), all.tokens}, &rule);
    }
  }

  // rule: null for everything.
  void attend_selected(const AttentionInput& input, const Blocks& blocks, const CudaPlan* rule) {
    const int heads_per_token = model().group_size();
    const int64_t n_works = blocks.n * model().n_kv_heads, n_tokens = blocks.n * blocks.tokens;
    auto a = arguments<cuda::AttendDecodeArgs>(input, blocks.first);
    float* out = a.out;
    cuda::RegroupArgs regroup{a.queries,          nullptr,         n_tokens,        static_cast<int>(blocks.tokens),
                              model().n_kv_heads, heads_per_token, model().head_dim};
    const auto n_floats = static_cast<size_t>(n_tokens * model().n_query_heads * model().head_dim);
    if (blocks.tokens > 1) {
      regroup.out = engine_->grouped_queries.resized(n_floats);
      cuda::group_blocks(regroup, stream());
      a.queries = regroup.out;
      a.out = engine_->grouped_out.resized(n_floats);
    }
    a.n_works = static_cast<int>(n_works);
    a.group = static_cast<int>(blocks.tokens) * heads_per_token;
    a.heads_per_token = heads_per_token;
    a.n_tails = model().n_kv_heads;
    a.n_tail = engine_->set_tail_lengths(lengths_of(input, blocks));
    engine_->select_and_attend(input.layer, rule, engine_->set_totals({counts_.totals()}), 1, a);
    if (rule) count(input.layer, n_works, *rule);
    if (blocks.tokens == 1) return;
    regroup.in = a.out;
    regroup.out = out;
    cuda::ungroup_blocks(regroup, stream());
  }

  // Tail rows that the first token of each work sees.
  std::vector<int32_t> lengths_of(const AttentionInput& input, const Blocks& blocks) {
    const int64_t before = tail(input.layer).n_tokens - input.queries.size(0);
    std::vector<int32_t> lengths;
    for (int64_t b = 0; b < blocks.n; ++b) {
      lengths.insert(lengths.end(), static_cast<size_t>(model().n_kv_heads),
                     static_cast<int32_t>(before + blocks.first + b * blocks.tokens + 1));
    }
    return lengths;
  }

  std::shared_ptr<CudaEngine> engine_;
  int64_t query_block_;
  std::vector<CudaTail> tails_;  // one per layer
  CudaCounts counts_;
  Usage usage_;  // without what lookups selected
};

}  // namespace

std::shared_ptr<const CudaContext> upload_context(Operations& cuda, const ContextView& context, int64_t device_bytes) {
  return std::make_shared<const CudaContext>(upload_context(context, device(cuda).stream(), device_bytes));
}

int64_t n_layers_on_host(const CudaContext& context) {
  return std::ranges::count_if(context.layers, [](const CudaLayer& layer) { return layer.on_host; });
}

double cached_share(const CudaContext& context) {
  return double(context.layers.back().cache.n_slots) / double(context.n_tokens);  // the last layers stay first
}

std::vector<std::unique_ptr<TailAttention>> cuda_attentions(Operations& cuda,
                                                            std::shared_ptr<const CudaContext> context, Rules rules,
                                                            Rest rest, int64_t query_block, size_t n) {
  const auto engine = std::make_shared<CudaEngine>(device(cuda), std::move(context), std::move(rules), rest);
  std::vector<std::unique_ptr<TailAttention>> out;
  while (out.size() < n) out.push_back(std::make_unique<CudaAttention>(engine, query_block));
  return out;
}

}  // namespace squeeze
