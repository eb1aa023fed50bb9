// The forward pass: pre-norm attention and SwiGLU blocks over residual hidden states in float32.
#include "lib/model/transformer.hpp"

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/model/linear.hpp"
#include "lib/model/rope.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTokenBlock = 16;
constexpr int64_t kElementBlock = 1 << 14;

Tensor small_f32(TensorView view) { return view.data() ? convert(view, DType::f32) : Tensor(); }

TensorView reshaped(TensorView view, Shape shape) { return {view.data(), view.dtype(), shape}; }

// The vectors of a layer (norm weights and biases) in float32; the matrices stay mapped.
struct Layer {
  explicit Layer(const LayerWeights& w)
      : matrices(w),
        attention_norm(small_f32(w.attention_norm)),
        mlp_norm(small_f32(w.mlp_norm)),
        q_norm(small_f32(w.q_norm)),
        k_norm(small_f32(w.k_norm)),
        q_bias(small_f32(w.q_bias)),
        k_bias(small_f32(w.k_bias)),
        v_bias(small_f32(w.v_bias)),
        o_bias(small_f32(w.o_bias)),
        gate_bias(small_f32(w.gate_bias)),
        up_bias(small_f32(w.up_bias)),
        down_bias(small_f32(w.down_bias)) {}

  LayerWeights matrices;
  Tensor attention_norm, mlp_norm, q_norm, k_norm;
  Tensor q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
};

void rms_norm(const float* x, int64_t n, const Tensor& weight, float eps, Tensor& out) {
  const int64_t size = weight.n_elements();
  out.resize(DType::f32, {n, size});
  parallel_blocks(n, kTokenBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels().rms_norm(x + i * size, weight.f32(), size, eps, out.f32() + i * size);
    }
  });
}

void add(const Tensor& delta, float* hidden) {
  parallel_blocks(delta.n_elements(), kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) hidden[i] += delta.f32()[i];
  });
}

// QK-norm (if `norm` has weights) and RoPE of one token's heads, in place.
void finish_heads(float* heads, int n_heads, int64_t dim, const Tensor& norm, float eps, const float* cosines,
                  const float* sines) {
  for (int head = 0; head < n_heads; ++head) {
    float* x = heads + head * dim;
    if (norm.data()) kernels().rms_norm(x, norm.f32(), dim, eps, x);
    kernels().rope(x, dim, cosines, sines);
  }
}

}  // namespace

struct Transformer::Impl {
  Impl(const ModelConfig& c, const ModelWeights& w, Precision p)
      : config(c),
        precision(p),
        rope(c.rope, c.head_dim),
        embedding(w.embedding),
        lm_head(w.lm_head),
        final_norm(small_f32(w.final_norm)),
        input(p) {
    for (const LayerWeights& layer : w.layers) layers.emplace_back(layer);
  }

  void embed(std::span<const int32_t> tokens, Tensor& out) const;
  // Of the tokens in `normed`, to `delta`.
  void attend(const Layer& layer, int index, int64_t first_position, Attention& attention);
  void run_mlp(const Layer& layer);
  void rotate(const Layer& layer, int64_t first_position);

  ModelConfig config;
  Precision precision;
  Rope rope;
  TensorView embedding, lm_head;
  Tensor final_norm;
  std::vector<Layer> layers;

  // What a pass computes in, kept from one to the next.
  LinearInput input;
  Tensor hidden, normed, q, k, v, gate, up, delta, logits;
};

void Transformer::Impl::rotate(const Layer& layer, int64_t first_position) {
  const int64_t dim = config.head_dim;
  parallel_blocks(q.size(0), kTokenBlock, [&](int64_t begin, int64_t end) {
    float cosines[kMaxHeadDim / 2], sines[kMaxHeadDim / 2];
    for (int64_t i = begin; i < end; ++i) {
      rope.angles(first_position + i, cosines, sines);
      finish_heads(q.f32() + i * q.size(1), config.n_query_heads, dim, layer.q_norm, config.rms_norm_eps, cosines,
                   sines);
      finish_heads(k.f32() + i * k.size(1), config.n_kv_heads, dim, layer.k_norm, config.rms_norm_eps, cosines, sines);
    }
  });
}

void Transformer::Impl::attend(const Layer& layer, int index, int64_t first_position, Attention& attention) {
  const int64_t n = normed.size(0), dim = config.head_dim;
  const TensorView x = input.of(normed);
  linear(x, layer.matrices.q, layer.q_bias, q);
  linear(x, layer.matrices.k, layer.k_bias, k);
  linear(x, layer.matrices.v, layer.v_bias, v);
  rotate(layer, first_position);
  const TensorView attended = attention.attend({.layer = index,
                                                .first_position = first_position,
                                                .queries = reshaped(q, {n, config.n_query_heads, dim}),
                                                .keys = reshaped(k, {n, config.n_kv_heads, dim}),
                                                .values = reshaped(v, {n, config.n_kv_heads, dim})});
  const TensorView heads = input.of(reshaped(attended, {n, config.n_query_heads * dim}));
  linear(heads, layer.matrices.o, layer.o_bias, delta);
}

void Transformer::Impl::run_mlp(const Layer& layer) {
  const TensorView x = input.of(normed);
  linear(x, layer.matrices.gate, layer.gate_bias, gate);
  linear(x, layer.matrices.up, layer.up_bias, up);
  parallel_blocks(gate.n_elements(), kElementBlock, [&](int64_t begin, int64_t end) {
    kernels().swiglu(gate.f32() + begin, up.f32() + begin, end - begin, gate.f32() + begin);
  });
  linear(input.of(gate), layer.matrices.down, layer.down_bias, delta);
}

Transformer::Transformer(const ModelConfig& config, const ModelWeights& weights, Precision precision)
    : impl_(std::make_unique<Impl>(config, weights, precision)) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config; }
Precision Transformer::precision() const { return impl_->precision; }
void Transformer::set_sequence_length(int64_t n_tokens) { impl_->rope.set_sequence_length(n_tokens); }
int64_t Transformer::sequence_length() const { return impl_->rope.sequence_length(); }

void Transformer::check_length(int64_t n_tokens) const {
  const int64_t window = config().sliding_window;
  if (window > 0 && n_tokens > window) {
    fail(
        "the model attends through a sliding window of {} tokens, which is not supported for longer sequences; "
        "found {} tokens",
        window, n_tokens);
  }
}

void Transformer::Impl::embed(std::span<const int32_t> tokens, Tensor& out) const {
  const int64_t n = static_cast<int64_t>(tokens.size()), size = config.hidden_size;
  out.resize(DType::f32, {n, size});
  for (int64_t i = 0; i < n; ++i) {
    const int32_t token = tokens[static_cast<size_t>(i)];
    if (token < 0 || token >= config.vocab_size) {
      fail("token {} is not in the model's vocabulary of {}; does the tokenizer belong to the model?", token,
           config.vocab_size);
    }
    kernels().to_f32(embedding[token].data(), embedding.dtype(), size, out.f32() + i * size);
  }
}

Tensor Transformer::embed(std::span<const int32_t> tokens) const {
  Tensor out;
  impl_->embed(tokens, out);
  return out;
}

void Transformer::forward_layer(int layer, int64_t first_position, Attention& attention, float* hidden,
                                int64_t n) const {
  if (n == 0) return;
  check_length(first_position + n);
  const Layer& weights = impl_->layers.at(static_cast<size_t>(layer));
  const float eps = config().rms_norm_eps;
  rms_norm(hidden, n, weights.attention_norm, eps, impl_->normed);
  impl_->attend(weights, layer, first_position, attention);
  add(impl_->delta, hidden);
  rms_norm(hidden, n, weights.mlp_norm, eps, impl_->normed);
  impl_->run_mlp(weights);
  add(impl_->delta, hidden);
}

TensorView Transformer::logits(TensorView hidden) const {
  rms_norm(hidden.f32(), hidden.size(0), impl_->final_norm, config().rms_norm_eps, impl_->normed);
  linear(impl_->input.of(impl_->normed), impl_->lm_head, {}, impl_->logits);
  return impl_->logits;
}

TensorView Transformer::hidden_states(std::span<const int32_t> tokens, int64_t first_position,
                                      Attention& attention) const {
  if (tokens.empty()) fail("a forward pass needs at least one token");
  Tensor& hidden = impl_->hidden;
  impl_->embed(tokens, hidden);
  for (int layer = 0; layer < config().n_layers; ++layer) {
    forward_layer(layer, first_position, attention, hidden.f32(), hidden.size(0));
  }
  return hidden;
}

TensorView Transformer::forward(std::span<const int32_t> tokens, int64_t first_position, Attention& attention,
                                bool all_logits) const {
  const TensorView hidden = hidden_states(tokens, first_position, attention);
  const int64_t n = hidden.size(0);
  return logits(hidden.slice(all_logits ? 0 : n - 1, n));
}

}  // namespace squeeze
