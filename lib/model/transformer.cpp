// The forward pass: pre-norm attention and SwiGLU blocks over residual hidden states in float32.
#include "lib/model/transformer.hpp"

#include <algorithm>
#include <numeric>

#include "lib/core/error.hpp"
#include "lib/core/scratch.hpp"
#include "lib/model/sampler.hpp"

namespace squeeze {
namespace {

TensorView reshaped(TensorView view, Shape shape) { return {view.data(), view.dtype(), shape}; }

// The weights of a layer where the operations read them: vectors (norms and biases) in float32.
struct Layer {
  Layer(const LayerWeights& w, Operations& ops)
      : q(ops.matrix(w.q)),
        k(ops.matrix(w.k)),
        v(ops.matrix(w.v)),
        o(ops.matrix(w.o)),
        gate(ops.matrix(w.gate)),
        up(ops.matrix(w.up)),
        down(ops.matrix(w.down)),
        attention_norm(ops.vector(w.attention_norm)),
        mlp_norm(ops.vector(w.mlp_norm)),
        q_norm(ops.vector(w.q_norm)),
        k_norm(ops.vector(w.k_norm)),
        q_bias(ops.vector(w.q_bias)),
        k_bias(ops.vector(w.k_bias)),
        v_bias(ops.vector(w.v_bias)),
        o_bias(ops.vector(w.o_bias)),
        gate_bias(ops.vector(w.gate_bias)),
        up_bias(ops.vector(w.up_bias)),
        down_bias(ops.vector(w.down_bias)) {}

  TensorView q, k, v, o, gate, up, down;
  Tensor attention_norm, mlp_norm, q_norm, k_norm;
  Tensor q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
};

}  // namespace

struct Transformer::Impl {
  Impl(const ModelConfig& c, const ModelWeights& w, std::unique_ptr<Operations> operations)
      : config(c),
        ops(std::move(operations)),
        rope(c.rope, c.head_dim),
        embedding(ops->matrix(w.embedding)),
        lm_head(w.lm_head.data() == w.embedding.data() ? embedding : ops->matrix(w.lm_head)),
        final_norm(ops->vector(w.final_norm)) {
    for (const LayerWeights& layer : w.layers) layers.emplace_back(layer, *ops);
  }

  void check_token(int32_t token) const;
  void embed(std::span<const int32_t> tokens, Tensor& out) const;
  // One layer, in place. attend: gives the attention's output [n, n_query_heads * head_dim] for the projections in q, k
  // and v.
  template <class Attend>
  void run_layer(const Layer& layer, std::span<const int64_t> at, float* x, const Attend& attend);
  // Of the n tokens from `row` on.
  AttentionInput input(int layer, int64_t row, int64_t n) const;
  void run_step(std::span<const SequenceToken> tokens, bool choose);
  TensorView attend_each(int layer, std::span<Attention* const> attentions);
  TensorView attend_step(int layer, Attention& any);
  void run_mlp(const Layer& layer, TensorView x);
  void compute_logits(TensorView states);

  ModelConfig config;
  std::unique_ptr<Operations> ops;
  Rope rope;
  TensorView embedding, lm_head;
  Tensor final_norm;
  std::vector<Layer> layers;

  Tensor buffer() const { return Tensor(ops->memory()); }
  // What a pass computes in, kept from one to the next.
  Tensor hidden = buffer(), q = buffer(), k = buffer(), v = buffer(), attended = buffer(), gate = buffer(),
         up = buffer(), delta = buffer(), logits = buffer();
  std::vector<int64_t> positions;
};

AttentionInput Transformer::Impl::input(int layer, int64_t row, int64_t n) const {
  const auto heads = [&](const Tensor& rows) {
    const int64_t dim = config.head_dim;
    return reshaped(rows.view().slice(row, row + n), {n, rows.size(1) / dim, dim});
  };
  return {.layer = layer,
          .first_position = positions[static_cast<size_t>(row)],
          .queries = heads(q),
          .keys = heads(k),
          .values = heads(v)};
}

template <class Attend>
void Transformer::Impl::run_layer(const Layer& layer, std::span<const int64_t> at, float* hidden_rows,
                                  const Attend& attend) {
  const TensorView states(hidden_rows, DType::f32, {std::ssize(at), config.hidden_size});
  const TensorView x = ops->normalised(states, layer.attention_norm, config.rms_norm_eps);
  ops->linear(x, layer.q, layer.q_bias, q);
  ops->linear(x, layer.k, layer.k_bias, k);
  ops->linear(x, layer.v, layer.v_bias, v);
  ops->rotate({.rope = rope,
               .positions = at,
               .head_dim = config.head_dim,
               .queries = q,
               .keys = k,
               .query_norm = layer.q_norm,
               .key_norm = layer.k_norm,
               .eps = config.rms_norm_eps});
  ops->linear(ops->rounded(reshaped(attend(), {std::ssize(at), q.size(1)})), layer.o, layer.o_bias, delta);
  ops->add(delta, hidden_rows);
  run_mlp(layer, ops->normalised(states, layer.mlp_norm, config.rms_norm_eps));
  ops->add(delta, hidden_rows);
}

void Transformer::Impl::run_mlp(const Layer& layer, TensorView x) {
  ops->linear(x, layer.gate, layer.gate_bias, gate);
  ops->linear(x, layer.up, layer.up_bias, up);
  ops->linear(ops->gated(gate, up), layer.down, layer.down_bias, delta);
}

Transformer::Transformer(const ModelConfig& config, const ModelWeights& weights, Precision precision)
    : Transformer(config, weights, cpu_operations(precision)) {}
Transformer::Transformer(const ModelConfig& config, const ModelWeights& weights, std::unique_ptr<Operations> operations)
    : impl_(std::make_unique<Impl>(config, weights, std::move(operations))) {}
Transformer::~Transformer() = default;

const ModelConfig& Transformer::config() const { return impl_->config; }
Precision Transformer::precision() const { return impl_->ops->precision(); }
Operations& Transformer::operations() const { return *impl_->ops; }
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

void Transformer::Impl::check_token(int32_t token) const {
  if (token >= 0 && token < config.vocab_size) return;
  fail("token {} is not in the model's vocabulary of {}; does the tokenizer belong to the model?", token,
       config.vocab_size);
}

void Transformer::Impl::embed(std::span<const int32_t> tokens, Tensor& out) const {
  for (const int32_t token : tokens) check_token(token);
  ops->embed(embedding, tokens, out);
}

Tensor Transformer::embed(std::span<const int32_t> tokens) const {
  Tensor out = impl_->buffer();
  impl_->embed(tokens, out);
  return out;
}

void Transformer::forward_layer(int layer, int64_t first_position, Attention& attention, float* hidden,
                                int64_t n) const {
  if (n == 0) return;
  check_length(first_position + n);
  resize_with_room(impl_->positions, static_cast<size_t>(n));
  std::iota(impl_->positions.begin(), impl_->positions.end(), first_position);
  impl_->run_layer(impl_->layers.at(static_cast<size_t>(layer)), impl_->positions, hidden,
                   [&] { return attention.attend(impl_->input(layer, 0, n)); });
}

// The tokens' attention one after the other.
TensorView Transformer::Impl::attend_each(int layer, std::span<Attention* const> attentions) {
  attended.resize(DType::f32, q.shape());
  for (int64_t i = 0; i < std::ssize(attentions); ++i) {
    const TensorView row = attentions[static_cast<size_t>(i)]->attend(input(layer, i, 1));
    ops->copy(row, attended.at(i * q.size(1)));
  }
  return attended;
}

// All at once, in what begin_step() made ready.
TensorView Transformer::Impl::attend_step(int layer, Attention& any) {
  const AttentionInput all = input(layer, 0, std::ssize(positions));
  any.attend_step({layer, all.queries, all.keys, all.values}, attended);
  return attended;
}

// Leaves logits; choose: and asks for the best of each.
void Transformer::Impl::run_step(std::span<const SequenceToken> tokens, bool choose) {
  if (tokens.empty()) fail("a forward pass needs at least one token");
  std::vector<int32_t> ids;
  std::vector<Attention*> attentions;
  positions.clear();
  for (const SequenceToken& token : tokens) {
    check_token(token.token);
    ids.push_back(token.token);
    positions.push_back(token.position);
    attentions.push_back(token.attention);
  }
  const bool at_once = attentions[0]->begin_step(attentions, positions);
  const auto compute = [&] {
    ops->embed(embedding, ids, hidden);
    for (int layer = 0; layer < config.n_layers; ++layer) {
      run_layer(layers[static_cast<size_t>(layer)], positions, hidden.f32(),
                [&] { return at_once ? attend_step(layer, *attentions[0]) : attend_each(layer, attentions); });
    }
    compute_logits(hidden);
    if (choose) ops->choose(logits);
  };
  if (!at_once) return compute();
  ops->prepare(ids, positions, rope, config.head_dim);
  std::vector<const void*> key(attentions.begin(), attentions.end());
  if (choose) key.push_back(this);
  ops->repeat(key, compute);
}

TensorView Transformer::forward_each(std::span<const SequenceToken> tokens) const {
  for (const SequenceToken& token : tokens) check_length(token.position + 1);
  impl_->run_step(tokens, false);
  return operations().download(impl_->logits);
}

std::span<const int32_t> Transformer::greedy_each(std::span<const SequenceToken> tokens) const {
  for (const SequenceToken& token : tokens) check_length(token.position + 1);
  impl_->run_step(tokens, true);
  const std::span<const int32_t> chosen = operations().chosen();
  if (std::ranges::any_of(chosen, [](int32_t token) { return token < 0; })) {
    const TensorView all = operations().download(impl_->logits);
    for (int64_t i = 0; i < all.size(0); ++i) check_logits({all[i].f32(), static_cast<size_t>(all.size(1))});
  }
  return chosen;
}

void Transformer::Impl::compute_logits(TensorView states) {
  ops->linear(ops->normalised(states, final_norm, config.rms_norm_eps), lm_head, {}, logits);
}

TensorView Transformer::logits(TensorView hidden) const {
  impl_->compute_logits(hidden);
  return operations().download(impl_->logits);
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
