// Tests of decoding on a CUDA device, with emulated kernels: steps that are recorded and replayed as graphs.
#include <doctest/doctest.h>

#include <cstring>

#include "kernels/cuda/forward_ops.hpp"
#include "lib/attention/cuda_attention.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_device_operations.hpp"
#include "lib/model/cuda_operations.hpp"
#include "lib/model/sampler.hpp"
#include "lib/model/transformer.hpp"
#include "tests/cuda/indexed_context.hpp"
#include "tests/made_weights.hpp"

using namespace squeeze;

namespace {

ModelConfig config_of(const ModelInfo& model) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden_size = 96;
  config.intermediate_size = 160;
  config.vocab_size = 70;
  config.n_layers = model.n_layers;
  config.n_query_heads = model.n_query_heads;
  config.n_kv_heads = model.n_kv_heads;
  config.head_dim = model.head_dim;
  config.max_positions = 4096;
  config.tied_embeddings = true;
  config.rope.theta = 10000;
  return config;
}

// Three requests on one device; everything that comes back is kept.
class Requests {
 public:
  // share: of the keys and values that the device has room for.
  Requests(const Indexed& context, const MadeWeights& made, const Rules& rules, Rest rest, bool graphs,
           double share = 2)
      : context_(context),
        model_(config_of(context.view.model), made.weights, cuda_operations(graphs)),
        attentions_(
            cuda_attentions(model_.operations(), upload_share(model_.operations(), context, share), rules, rest, 4, 3)),
        lengths_(3) {}

  void prompt(size_t request, int64_t n_tokens) {
    attentions_[request]->clear_tail();
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < n_tokens; ++i) tokens.push_back((i * 31 + int32_t(request)) % 70);
    keep(model_.forward(tokens, context_.n_tokens, *attentions_[request]));
    lengths_[request] = n_tokens;
  }

  void step(const std::vector<size_t>& requests) {
    std::vector<SequenceToken> tokens;
    for (const size_t r : requests) {
      tokens.push_back({int32_t(lengths_[r] * 7 % 70), context_.n_tokens + lengths_[r], attentions_[r].get()});
      ++lengths_[r];
    }
    if (!greedy) return keep(model_.forward_each(tokens));
    for (const int32_t token : model_.greedy_each(tokens)) tokens_.push_back(token);
  }
  void steps(int n, const std::vector<size_t>& requests) {
    for (int i = 0; i < n; ++i) step(requests);
  }

  bool greedy = false;  // steps keep tokens, not logits
  const std::vector<float>& logits() const { return logits_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  Usage usage(size_t request) const { return attentions_[request]->usage(); }
  int64_t n_replays() const { return dynamic_cast<CudaOperations&>(model_.operations()).stream().n_replays(); }

 private:
  void keep(TensorView logits) { logits_.insert(logits_.end(), logits.f32(), logits.f32() + logits.n_elements()); }

  const Indexed& context_;
  Transformer model_;
  std::vector<std::unique_ptr<TailAttention>> attentions_;
  std::vector<int64_t> lengths_;  // after the context
  std::vector<float> logits_;
  std::vector<int32_t> tokens_;
};

// Requests that come and go: alone, together, a prompt between two steps, tails that outgrow their memory.
void answer(Requests& requests) {
  requests.prompt(0, 9);
  requests.steps(4, {0});
  requests.prompt(1, 60);
  requests.steps(7, {0, 1});  // the second tail outgrows the 64 rows it begins with
  requests.prompt(2, 3);
  requests.steps(3, {0, 1, 2});
  requests.steps(3, {2, 0});
  requests.prompt(0, 5);
  requests.steps(3, {2, 0});
  requests.steps(3, {1});
}

void check_same(const Usage& x, const Usage& y) {
  check_same_bytes_read(x, y);
  CHECK(x.bytes_from_host == y.bytes_from_host);
  CHECK(x.bytes_cached == y.bytes_cached);
}

}  // namespace

TEST_SUITE("cuda_decode") {
  TEST_CASE("a graph is recorded anew where the key changed, memory moved or a workspace was filled") {
    CudaStream stream;
    CudaBuffer<float> delta, x;
    CudaWorkspace space;
    const std::vector<float> zeros(3), ones(3, 1.0f);
    delta.filled(ones, stream);
    x.filled(zeros, stream);
    space.of(10, {1}, stream);
    const auto repeat = [&](const void* key) {
      stream.repeat({key}, [&] { cuda::add(delta.data(), nullptr, 3, 3, x.data(), stream.get()); });
      std::vector<float> sum(3);
      stream.download(x.data(), 3 * sizeof(float), sum.data());
      return sum[2];
    };
    CHECK(repeat(&x) == 1);  // launched
    CHECK(repeat(&x) == 2);  // recorded and replayed
    CHECK(repeat(&x) == 3);
    CHECK(stream.n_replays() == 2);
    CHECK(repeat(&delta) == 4);
    CHECK(stream.n_replays() == 2);
    CHECK(repeat(&delta) == 5);
    CHECK(stream.n_replays() == 3);
    x.resized(100);  // moves
    x.filled(zeros, stream);
    CHECK(repeat(&delta) == 1);
    CHECK(stream.n_replays() == 3);
    CHECK(repeat(&delta) == 2);
    space.of(10, {1}, stream);  // as it is
    CHECK(repeat(&delta) == 3);
    CHECK(stream.n_replays() == 5);
    for (const auto& [bytes, layout] : {std::pair{size_t{10}, int64_t{2}}, {20, 2}}) {
      space.of(bytes, {layout}, stream);
      (void)repeat(&delta);
      CHECK(stream.n_replays() == 5);
    }
  }

  TEST_CASE("replayed steps give the bits and the counts of launched ones") {
    const Indexed context({.group = 4});
    const MadeWeights made(config_of(context.view.model));
    for (const Rules& rules : {dense_rules(), context.rules("sparsity", 0.8), context.rules("budget", 0.4)}) {
      for (const Rest rest : {Rest::drop, Rest::mean}) {
        Requests launched(context, made, rules, rest, false), replayed(context, made, rules, rest, true);
        answer(launched);
        answer(replayed);
        CHECK(replayed.logits() == launched.logits());
        for (size_t r = 0; r < 3; ++r) check_same(replayed.usage(r), launched.usage(r));
        CHECK(launched.n_replays() == 0);
        CHECK(replayed.n_replays() >= 12);  // of 23 steps; the first of each kind, and where memory moves, are launched
      }
    }
  }

  TEST_CASE("replayed steps read keys and values of the host through the cache, as launched ones do") {
    const Indexed context({.group = 4});
    const MadeWeights made(config_of(context.view.model));
    for (const auto& [name, value] : {std::pair{"sparsity", 0.8}, {"budget", 0.4}}) {
      const Rules rules = context.rules(name, value);
      Requests all(context, made, rules, Rest::mean, true), launched(context, made, rules, Rest::mean, false, 0.3),
          replayed(context, made, rules, Rest::mean, true, 0.3);
      for (Requests* each : {&all, &launched, &replayed}) answer(*each);
      CHECK(launched.logits() == all.logits());
      CHECK(replayed.logits() == all.logits());
      CHECK(replayed.n_replays() >= 12);
      for (size_t r = 0; r < 3; ++r) {
        check_same(replayed.usage(r), launched.usage(r));
        CHECK(replayed.usage(r).bytes_cached > 0);
        CHECK(replayed.usage(r).bytes_from_host > 0);
      }
    }
  }

  TEST_CASE("tokens chosen on the device are those of the logits; logits that are not finite are refused") {
    const Indexed context({.group = 4});
    MadeWeights made(config_of(context.view.model));
    Requests by_logits(context, made, dense_rules(), Rest::drop, true),
        by_token(context, made, dense_rules(), Rest::drop, true);
    by_token.greedy = true;
    for (Requests* each : {&by_logits, &by_token}) {
      each->prompt(0, 4);
      each->prompt(1, 5);
    }
    const size_t n_before = by_logits.logits().size();
    for (Requests* each : {&by_logits, &by_token}) {
      each->steps(3, {0});
      each->steps(3, {0, 1});
    }
    CHECK(by_token.n_replays() == 4);
    constexpr size_t kVocab = 70;
    std::vector<int32_t> expected;
    for (size_t row = n_before; row < by_logits.logits().size(); row += kVocab) {
      expected.push_back(greedy_token({by_logits.logits().data() + row, kVocab}));
    }
    CHECK(expected.size() == 9);
    CHECK(by_token.tokens() == expected);

    Tensor norm = Tensor::zeros(DType::f32, made.weights.final_norm.shape());
    norm.f32()[3] = NAN;
    made.weights.final_norm = norm;
    Requests broken(context, made, dense_rules(), Rest::drop, true);
    broken.greedy = true;
    broken.prompt(0, 4);
    CHECK_THROWS_WITH_AS(broken.step({0}), doctest::Contains("logits are not finite"), Error);
  }

  TEST_CASE("a step that fails leaves the next request right") {
    const Indexed context({.group = 4});
    const MadeWeights made(config_of(context.view.model));
    Requests broken(context, made, context.rules("budget", 0.4), Rest::mean, true);
    broken.prompt(0, 9);
    broken.steps(3, {0});
    CHECK_THROWS_AS(broken.step({0, 0}), Error);  // one sequence has one next token
    Requests fresh(context, made, context.rules("budget", 0.4), Rest::mean, true);
    const size_t before = broken.logits().size();
    for (Requests* each : {&broken, &fresh}) {
      each->prompt(0, 12);
      each->steps(4, {0});
    }
    CHECK(std::vector<float>(broken.logits().begin() + std::ptrdiff_t(before), broken.logits().end()) ==
          fresh.logits());
  }
}
