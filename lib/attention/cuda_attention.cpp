// One layer at a time: the new rows to the tail, selections by blocks of query tokens, attention over what they chose.
#include "lib/attention/cuda_attention.hpp"

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/cuda/attend_decode.hpp"
#include "kernels/cuda/attend_prefill.hpp"
#include "kernels/cuda/forward_ops.hpp"
#include "lib/attention/cuda_lookup.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_device_operations.hpp"

namespace squeeze {
namespace {

constexpr int64_t kLookupBytes = int64_t{256} << 20;  // of the buffers of one lookup: more works go one after another
constexpr int64_t kMostWorks = 1024;                  // that the kernels take at once
constexpr int kDenseBlock = 64;                       // query tokens that read everything together

static_assert(kMostCudaRows == cuda::kMaxGroup);

CudaOperations& device(Operations& operations) {
  auto* cuda = dynamic_cast<CudaOperations*>(&operations);
  if (!cuda) fail("attention on a CUDA device needs a forward pass on one");
  return *cuda;
}

// Keys and values after the context, of one layer: [n_kv_heads, capacity, head_dim].
struct Tail {
  Tensor keys{cuda_memory()}, values{cuda_memory()};
  int64_t n_tokens = 0;

  int64_t capacity() const { return keys.data() ? keys.size(1) : 0; }
};

// Consecutive query tokens in blocks of one size.
struct Blocks {
  int64_t first, n, tokens;  // the first token, how many blocks, of how many tokens
};

class CudaAttention final : public TailAttention {
 public:
  CudaAttention(CudaOperations& cuda, std::shared_ptr<const CudaContext> context, Rules rules, Rest rest,
                int64_t query_block)
      : cuda_(cuda),
        context_(std::move(context)),
        rules_(std::move(rules)),
        rest_(rest),
        query_block_(query_block),
        tails_(context_->layers.size()),
        lookup_(*context_, rest, cuda.stream()) {
    if (query_block < 0) fail("the query block must not be negative, found {}", query_block);
  }

  TensorView attend(const AttentionInput& input) override {
    const auto number = static_cast<size_t>(input.layer);
    check_input(input, model(), context_->n_tokens + (number < tails_.size() ? tails_[number].n_tokens : 0));
    const int64_t n = input.queries.size(0);
    output_.resize(DType::f32, input.queries.shape());
    if (n == 0) return output_;
    append(input, tails_[number]);
    if (plan(input.layer, 1).dense) {
      attend_densely(input);
    } else {
      const int64_t most = std::min<int64_t>(n, kMostCudaRows / model().group_size());
      const int64_t tokens = query_block_ > 0 ? std::min(query_block_, most) : most;
      attend_blocks(input, {0, n / tokens, tokens});
      if (n % tokens != 0) attend_blocks(input, {n - n % tokens, 1, n % tokens});
    }
    return output_;
  }

  void reserve(int64_t n_tokens) override {
    for (Tail& tail : tails_) make_room(n_tokens - context_->n_tokens, tail);
  }

  void clear_tail() override {
    for (Tail& tail : tails_) tail.n_tokens = 0;
    usage_ = {};
    lookup_.clear_usage();
  }

  Usage usage() const override {
    Usage all = usage_;
    lookup_.add_usage(context_->layers[0], all);
    return all;
  }

 private:
  const ModelInfo& model() const { return context_->model; }
  cuda::Stream stream() const { return cuda_.stream().get(); }

  // Of blocks of n_query_tokens; made once.
  const CudaPlan& plan(int layer, int64_t n_query_tokens) {
    const auto found = plans_.find({layer, n_query_tokens});
    if (found != plans_.end()) return found->second;
    return plans_
        .emplace(std::pair{layer, n_query_tokens}, plan_layer(context_->layers[static_cast<size_t>(layer)], layer,
                                                              rules_, rest_, n_query_tokens, cuda_.stream()))
        .first->second;
  }

  void make_room(int64_t n, Tail& tail) {
    if (n <= tail.capacity()) return;
    const int64_t capacity = std::max<int64_t>({64, n, 2 * tail.capacity()});
    const auto row_bytes = static_cast<size_t>(model().head_dim) * size_of(context_->dtype);
    for (Tensor* cache : {&tail.keys, &tail.values}) {
      Tensor grown(context_->dtype, {model().n_kv_heads, capacity, model().head_dim}, cuda_memory());
      for (int64_t h = 0; tail.n_tokens > 0 && h < model().n_kv_heads; ++h) {
        cuda::copy_on_device(grown.at(h * capacity * model().head_dim), (*cache)[h].data(),
                             static_cast<size_t>(tail.n_tokens) * row_bytes, stream());
      }
      cuda::synchronize(stream());  // before the old memory goes
      *cache = std::move(grown);
    }
  }

  void append(const AttentionInput& input, Tail& tail) {
    make_room(tail.n_tokens + input.keys.size(0), tail);
    cuda_.store_rows(input.keys, tail.n_tokens, tail.keys);
    cuda_.store_rows(input.values, tail.n_tokens, tail.values);
    tail.n_tokens += input.keys.size(0);
  }

  template <class Args>
  Args arguments(const AttentionInput& input, int64_t first_token) {
    const CudaLayer& layer = context_->layers[static_cast<size_t>(input.layer)];
    const Tail& tail = tails_[static_cast<size_t>(input.layer)];
    const int64_t token_size = int64_t{model().n_query_heads} * model().head_dim;
    Args a = {};
    a.queries = input.queries.f32() + first_token * token_size;
    a.out = output_.f32() + first_token * token_size;
    a.n_kv_heads = model().n_kv_heads;
    a.head_dim = model().head_dim;
    a.scale = model().softmax_scale;
    a.dtype = layer.kv_dtype;
    a.float_type = context_->dtype;
    a.key_scales = layer.key_scales.data();
    a.value_scales = layer.value_scales.data();
    a.keys = layer.keys.data();
    a.values = layer.values.data();
    a.n_tokens = context_->n_tokens;
    a.tail_keys = tail.keys.data();
    a.tail_values = tail.values.data();
    a.tail_capacity = tail.capacity();
    return a;
  }

  void attend_densely(const AttentionInput& input) {
    const auto n = static_cast<int>(input.queries.size(0));
    const HeadView& head = context_->layers[static_cast<size_t>(input.layer)].heads[0];
    if (n == 1) {
      attend_selected(input, {0, 1, 1}, nullptr);
    } else {
      auto a = arguments<cuda::AttendPrefillArgs>(input, 0);
      a.n_queries = n;
      a.n_query_heads = model().n_query_heads;
      a.block_tokens = kDenseBlock;
      a.n_rows = all_rows((n + kDenseBlock - 1) / kDenseBlock);
      a.n_tail_before = static_cast<int>(tails_[static_cast<size_t>(input.layer)].n_tokens) - n;
      a.workspace = prefill_space_.of(
          cuda::attend_prefill_workspace_bytes(n, a.n_query_heads, a.n_kv_heads, a.head_dim, kDenseBlock), {n},
          cuda_.stream());
      cuda::attend_prefill(a, stream());
    }
    // As many lookups as the CPU counts: a block of tokens, a KV head.
    const int64_t block = query_block_ > 0 ? query_block_ : n;
    const int64_t n_lookups = (n + block - 1) / block * model().n_kv_heads;
    count(head, n_lookups);
    usage_.keys_selected += n_lookups * head.n_clustered();
    usage_.bytes_read += n_lookups * head.n_clustered() * kv_bytes(head);
  }

  // Everything but what was selected.
  void count(const HeadView& head, int64_t n_lookups) {
    usage_.n_lookups += n_lookups;
    usage_.keys_clustered += n_lookups * head.n_clustered();
    usage_.bytes_read += n_lookups * pinned_bytes(head);
    usage_.bytes_dense += n_lookups * head.n_tokens() * kv_bytes(head);
  }

  const int32_t* all_rows(int64_t n_blocks) {
    const auto n_works = static_cast<size_t>(n_blocks * model().n_kv_heads);
    if (n_works > n_all_rows_) {
      all_rows_.filled(std::vector<int32_t>(n_works, static_cast<int32_t>(context_->n_tokens)), cuda_.stream());
      n_all_rows_ = n_works;
    }
    return all_rows_.data();
  }

  // As many blocks at a time as the buffers of a lookup may hold.
  void attend_blocks(const AttentionInput& input, const Blocks& all) {
    const CudaLayer& layer = context_->layers[static_cast<size_t>(input.layer)];
    const CudaPlan& rule = plan(input.layer, all.tokens);
    const int group = static_cast<int>(all.tokens) * model().group_size();
    const int64_t block_bytes = lookup_.bytes_per_work(layer, rule, group) * model().n_kv_heads;
    const int64_t fit = std::min(kLookupBytes / block_bytes, kMostWorks / model().n_kv_heads);
    const int64_t step = std::max<int64_t>(1, fit);
    for (int64_t done = 0; done < all.n; done += step) {
      attend_selected(input, {all.first + done * all.tokens, std::min(step, all.n - done), all.tokens}, &rule);
    }
  }

  // rule: null for everything.
  void attend_selected(const AttentionInput& input, const Blocks& blocks, const CudaPlan* rule) {
    const CudaLayer& layer = context_->layers[static_cast<size_t>(input.layer)];
    const int heads_per_token = model().group_size();
    const int64_t n_works = blocks.n * model().n_kv_heads, n_tokens = blocks.n * blocks.tokens;
    auto a = arguments<cuda::AttendDecodeArgs>(input, blocks.first);
    float* out = a.out;
    cuda::RegroupArgs regroup{a.queries,          nullptr,         n_tokens,        static_cast<int>(blocks.tokens),
                              model().n_kv_heads, heads_per_token, model().head_dim};
    const auto n_floats = static_cast<size_t>(n_tokens * model().n_query_heads * model().head_dim);
    if (blocks.tokens > 1) {
      regroup.out = grouped_queries_.resized(n_floats);
      cuda::group_blocks(regroup, stream());
      a.queries = regroup.out;
      a.out = grouped_out_.resized(n_floats);
    }
    a.n_works = static_cast<int>(n_works);
    a.group = static_cast<int>(blocks.tokens) * heads_per_token;
    a.heads_per_token = heads_per_token;
    a.n_tails = model().n_kv_heads;
    a.n_tail = tail_lengths(input, blocks);
    if (rule) {
      set_selection(lookup_.select(layer, *rule, a.queries, n_works, a.group), layer, a);
      count(layer.heads[0], n_works);
    } else {
      a.n_rows = all_rows(blocks.n);
    }
    a.workspace = decode_space_.of(cuda::attend_decode_workspace_bytes(a.n_works, a.group, a.head_dim),
                                   {n_works, a.group}, cuda_.stream());
    cuda::attend_decode(a, stream());
    if (blocks.tokens == 1) return;
    regroup.in = a.out;
    regroup.out = out;
    cuda::ungroup_blocks(regroup, stream());
  }

  static void set_selection(const CudaSelection& selection, const CudaLayer& layer, cuda::AttendDecodeArgs& a) {
    a.rows = selection.rows;
    a.rows_stride = selection.rows_stride;
    a.n_rows = selection.n_rows;
    if (!selection.rest) return;
    a.value_means = layer.value_means.data();
    a.n_clusters = layer.n_means;
    a.rest = selection.rest;
    a.rest_logits = selection.rest_logits;
    a.rest_stride = selection.rest_stride;
    a.n_rest = selection.n_rest;
  }

  // Tail rows that the first token of each work sees; the same for all layers of a pass.
  const int32_t* tail_lengths(const AttentionInput& input, const Blocks& blocks) {
    const int64_t before = tails_[static_cast<size_t>(input.layer)].n_tokens - input.queries.size(0);
    const std::vector<int64_t> key{before, blocks.first, blocks.n, blocks.tokens};
    if (key == tail_key_) return tail_lengths_.data();
    tail_key_ = key;
    std::vector<int32_t> lengths;
    for (int64_t b = 0; b < blocks.n; ++b) {
      lengths.insert(lengths.end(), static_cast<size_t>(model().n_kv_heads),
                     static_cast<int32_t>(before + blocks.first + b * blocks.tokens + 1));
    }
    return tail_lengths_.filled(lengths, cuda_.stream());
  }

  CudaOperations& cuda_;
  std::shared_ptr<const CudaContext> context_;
  Rules rules_;
  Rest rest_;
  int64_t query_block_;
  std::vector<Tail> tails_;  // one per layer
  std::map<std::pair<int, int64_t>, CudaPlan> plans_;
  CudaLookup lookup_;

  Tensor output_{cuda_memory()};
  CudaBuffer<float> grouped_queries_, grouped_out_;
  CudaBuffer<int32_t> all_rows_, tail_lengths_;
  size_t n_all_rows_ = 0;
  std::vector<int64_t> tail_key_;
  CudaWorkspace prefill_space_, decode_space_;
  Usage usage_;  // without what lookups selected
};

}  // namespace

std::shared_ptr<const CudaContext> upload_context(Operations& cuda, const ContextView& context) {
  return std::make_shared<const CudaContext>(upload_context(context, device(cuda).stream()));
}

std::unique_ptr<TailAttention> cuda_attention(Operations& cuda, std::shared_ptr<const CudaContext> context, Rules rules,
                                              Rest rest, int64_t query_block) {
  return std::make_unique<CudaAttention>(device(cuda), std::move(context), std::move(rules), rest, query_block);
}

}  // namespace squeeze
