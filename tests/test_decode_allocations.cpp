// Tests that decoding allocates nothing per token once its buffers have grown: a binary of its own, since it counts the
// allocations of the whole process.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "formats/hf_model.hpp"
#include "lib/attention/budget.hpp"
#include "lib/attention/context_attention.hpp"
#include "lib/attention/dense_cache.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/calibrate.hpp"
#include "lib/model/sampler.hpp"
#include "lib/model/transformer.hpp"
#include "tests/allocation_counter.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze {
namespace {

constexpr int64_t kContext = 9000;                // several chunks of rows per head
constexpr int64_t kTokens = 24, kGrowTokens = 4;  // decoded; of them, those in which buffers may grow

// A small model, and an index of made-up keys in place of a text that it has read.
struct Made {
  HfModel files{std::string(SQUEEZE_SOURCE_DIR) + "/tests/golden/models/llama_gqa"};
  std::vector<IndexLayer> layers;
  ContextView context;
  Calibration calibration;

  Made(int sketch_bits, bool int8) {
    const ModelConfig& config = files.config();
    context.model = files.info();
    IndexOptions options =
        options_of({.levels = {{.share = 0.01}, {.share = 0.05}}, .bits = sketch_bits, .quantise = true});
    options.iterations = 2;
    options.quantise_kv = int8;
    for (int layer = 0; layer < config.n_layers; ++layer) {
      const Tensor keys = topic_keys(config.n_kv_heads, kContext, config.head_dim, 30, unsigned(layer), DType::bf16);
      layers.push_back(build_layer(keys, keys, options));
    }
    for (const IndexLayer& layer : layers) context.layers.push_back(heads_of(layer));
    calibrate_with_noise();
  }

 private:
  void calibrate_with_noise() {
    const ModelConfig& config = files.config();
    const Tensor queries = random_tensor({config.n_query_heads, 20, config.head_dim}, 90);
    CalibrationOptions options;
    options.softmax_scale = context.model.softmax_scale;
    const auto load = [&](int layer) -> CalibrationLayer {
      return {context.layers[static_cast<size_t>(layer)], queries};
    };
    calibration = calibrate(config.n_layers, load, options);
  }
};

// Answers a prompt as generate() does, without turning tokens into text; returns the allocations of each token.
std::vector<int64_t> allocations_per_token(const Transformer& transformer, Attention& attention, int64_t first_position,
                                           float temperature) {
  const std::vector<int32_t> prompt = {5, 9, 1, 30, 7};
  Sampler sampler({.temperature = temperature});
  attention.reserve(first_position + std::ssize(prompt) + kTokens);
  TensorView logits = transformer.forward(prompt, first_position, attention);
  int64_t position = first_position + std::ssize(prompt);
  std::vector<int64_t> counts(kTokens);
  for (int64_t& count : counts) {
    const int64_t before = n_allocations();
    const int32_t token = sampler.next({logits.f32(), static_cast<size_t>(logits.size(1))});
    logits = transformer.forward({&token, 1}, position++, attention);
    count = n_allocations() - before;
  }
  return counts;
}

// The allocations of one call. What it makes is looked at, so that no compiler leaves it out.
template <class Make>
int64_t allocations_of(const Make& make) {
  const int64_t before = n_allocations();
  const auto made = make();
  asm volatile("" : : "r"(&made) : "memory");
  return n_allocations() - before;
}

// grows: whether the first token has to allocate.
void check_steady(const std::vector<int64_t>& counts, bool grows) {
  if (grows) CHECK(counts[0] > 0);
  for (int64_t i = kGrowTokens; i < kTokens; ++i) {
    CAPTURE(i);
    CHECK(counts[static_cast<size_t>(i)] == 0);
  }
}

struct NamedPolicy {
  const char* name;
  double value;
  Rest rest;
};

// Every policy of the method with some that are sparse, and dense layers.
void check_policies(const Made& made, const Transformer& transformer, float temperature) {
  for (const NamedPolicy& p : std::initializer_list<NamedPolicy>{{"dense", 0, Rest::drop},
                                                                 {"sparsity", 0.8, Rest::drop},
                                                                 {"sparsity", 0.8, Rest::mean},
                                                                 {"flat", 0.8, Rest::mean},
                                                                 {"threshold", 1e-4, Rest::mean},
                                                                 {"top-k", 500, Rest::mean},
                                                                 {"top-p", 0.5, Rest::mean},
                                                                 {"budget", 0.3, Rest::mean}}) {
    const std::string name = p.name;
    CAPTURE(name);
    const Policy policy = make_policy(p.name, {.value = p.value,
                                               .calibration = &made.calibration,
                                               .softmax_scale = made.context.model.softmax_scale,
                                               .rest = p.rest});
    ContextAttention attention(made.context, with_dense_layers(policy, {1}), p.rest);
    ContextAttention sparse(made.context, policy, p.rest);
    check_steady(allocations_per_token(transformer, sparse, kContext, temperature), true);
    if (name != "dense") {
      CHECK(sparse.usage().kept() < 0.9);
      CHECK(sparse.usage().kept() > 0.01);
    }
    check_steady(allocations_per_token(transformer, attention, kContext, temperature), true);
    for (int request = 0; request < 2; ++request) {  // the next request finds its memory
      sparse.clear_tail();
      check_steady(allocations_per_token(transformer, sparse, kContext, temperature), false);
    }
  }
}

}  // namespace

TEST_SUITE("decode_allocations") {
  TEST_CASE("the counter counts what this program allocates") {
    CHECK(allocations_of([] { return 1; }) == 0);
    CHECK(allocations_of([] { return std::make_unique<int>(1); }) == 1);
    CHECK(allocations_of([] { return std::vector<float>(100); }) == 1);
    CHECK(allocations_of([] { return std::string(100, 'x'); }) == 1);
    CHECK(allocations_of([] { return Tensor(DType::f32, {10}); }) == 1);
    CHECK(allocations_of([] { return std::function<int64_t()>([x = std::array<int64_t, 9>()] { return x[3]; }); }) ==
          1);
    set_threads(3);
    parallel_for(8, [](int64_t) {});  // starts the threads
    std::vector<std::vector<char>> made(8);
    const auto fill = [&] {
      parallel_for(8, [&](int64_t i) { made[static_cast<size_t>(i)].resize(5); });
      return made.size();
    };
    CHECK(allocations_of(fill) == 8);
    CHECK(allocations_of(fill) == 0);
  }

  TEST_CASE("an answer by any policy of the method, with and without sketches, threads, 8-bit keys and sampling") {
    for (const int bits : {0, 1}) {
      for (const bool int8 : {false, true}) {
        const Made made(bits, int8);
        const Precision precision = int8 ? Precision::bf16 : Precision::f32;
        const Transformer transformer(made.files.config(), made.files.weights(), precision);
        for (const int threads : {1, 3}) {
          CAPTURE(bits);
          CAPTURE(int8);
          CAPTURE(threads);
          set_threads(threads);
          check_policies(made, transformer, int8 ? 0.8f : 0.0f);
        }
      }
    }
  }

  TEST_CASE("plain causal attention with a cache of its own") {
    const Made made(0, false);
    for (const int threads : {1, 3}) {
      set_threads(threads);
      const Transformer transformer(made.files.config(), made.files.weights(), Precision::f32);
      DenseCache cache(made.files.info(), DType::bf16);
      check_steady(allocations_per_token(transformer, cache, 0, 0), false);  // the prompt needed more
    }
  }
}

}  // namespace squeeze

int main(int argc, char** argv) {
  if (!squeeze::counts_allocations()) {
    std::fprintf(stderr, "decode_allocations: skipped: allocations cannot be counted with this C library\n");
    return 77;
  }
  doctest::Context context(argc, argv);
  return context.run();
}
