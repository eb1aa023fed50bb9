// Tests of the forward pass and of the prefill on a CUDA device, with emulated kernels, against the CPU's.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "lib/attention/dense_cache.hpp"
#include "lib/core/error.hpp"
#include "lib/model/cuda_operations.hpp"
#include "lib/model/prefill.hpp"
#include "tests/made_weights.hpp"

using namespace squeeze;

namespace {

ModelConfig config_of(int n_query_heads) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden_size = 96;
  config.intermediate_size = 160;
  config.vocab_size = 70;
  config.n_layers = 2;
  config.n_query_heads = n_query_heads;
  config.n_kv_heads = 2;
  config.head_dim = 64;
  config.max_positions = 4096;
  config.tied_embeddings = true;
  config.rope.theta = 10000;
  return config;
}

std::vector<int32_t> tokens_of(int64_t n, int32_t first = 0) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < n; ++i) tokens.push_back((first + i * 31) % 70);
  return tokens;
}

struct Recorded {
  std::vector<PrefilledLayer> layers;
  std::vector<Tensor> hidden;
};

Recorded record(Transformer& transformer, PrefillOptions options, int64_t n_tokens = 150) {
  Recorded recorded;
  const auto sink = [&](const PrefilledLayer& layer) {
    recorded.hidden.push_back(layer.hidden.clone());
    PrefilledLayer& copy = recorded.layers.emplace_back();
    const auto clone = [](const KvLayer& kv) {
      return KvLayer{kv.keys.clone(), kv.values.clone(), kv.queries.clone()};
    };
    copy.context = clone(layer.context);
    for (const KvLayer& probe : layer.probes) copy.probes.push_back(clone(probe));
  };
  const std::vector<std::vector<int32_t>> probes = {tokens_of(9, 5), tokens_of(70, 3)};
  prefill(transformer, tokens_of(n_tokens), probes, std::move(options), sink, {});
  return recorded;
}

// The root mean square of the difference, of the first's.
double distance(TensorView x, TensorView y) {
  REQUIRE(x.shape() == y.shape());
  double difference = 0, size = 0;
  for (int64_t i = 0; i < x.n_elements(); ++i) {
    const double a = double{load_element(x.data(), x.dtype(), i)}, b = double{load_element(y.data(), y.dtype(), i)};
    difference += (a - b) * (a - b);
    size += a * a;
  }
  return std::sqrt(difference / size);
}

// Both round inputs of products, keys and values to bf16. A sum in another order can round the other way, by 2^-8 of a
// number at most, so that what a layer gives differs by less than that, relative to its size; layers add up.
constexpr double kLayerBound = 0x1p-8;

void check_near(const KvLayer& x, const KvLayer& y, double bound) {
  CHECK(distance(x.keys, y.keys) < bound);
  CHECK(distance(x.values, y.values) < bound);
  CHECK(distance(x.queries, y.queries) < bound);
}

bool same(TensorView x, TensorView y) {
  return x.shape() == y.shape() && x.dtype() == y.dtype() && std::memcmp(x.data(), y.data(), x.n_bytes()) == 0;
}

PrefillOptions options_of(int64_t chunk, DType dtype = DType::bf16) {
  PrefillOptions options;
  options.chunk = chunk;
  options.n_queries = 20;
  options.dtype = dtype;
  return options;
}

}  // namespace

TEST_SUITE("cuda_model") {
  TEST_CASE("the prefill records what the CPU's does: groups, biases, QK-norm, types, probes, chunks") {
    for (const MadeWeightsOptions& kind : {MadeWeightsOptions{}, MadeWeightsOptions{true, false, DType::f32},
                                           MadeWeightsOptions{false, true, DType::f16}}) {
      const ModelConfig config = config_of(kind.qk_norm ? 6 : kind.qkv_biases ? 2 : 8);
      const MadeWeights made(config, kind);
      Transformer cpu(config, made.weights, Precision::bf16), cuda(config, made.weights, cuda_operations());
      CHECK(cuda.precision() == Precision::bf16);
      const DType dtype = kind.qk_norm ? DType::f16 : DType::bf16;
      const Recorded expected = record(cpu, options_of(64, dtype)), found = record(cuda, options_of(48, dtype));
      REQUIRE(found.layers.size() == 2);
      for (size_t layer = 0; layer < 2; ++layer) {
        const double bound = kLayerBound * double(layer + 1);
        CHECK(found.layers[layer].context.keys.dtype() == dtype);
        check_near(expected.layers[layer].context, found.layers[layer].context, bound);
        REQUIRE(found.layers[layer].probes.size() == 2);
        for (size_t p = 0; p < 2; ++p) {
          check_near(expected.layers[layer].probes[p], found.layers[layer].probes[p], bound);
        }
        CHECK(distance(expected.hidden[layer], found.hidden[layer]) < bound);
      }
    }
  }

  TEST_CASE("a resumed prefill gives the same bytes") {
    const ModelConfig config = config_of(4);
    const MadeWeights made(config);
    Transformer cuda(config, made.weights, cuda_operations());
    const Recorded whole = record(cuda, options_of(64));
    PrefillOptions options = options_of(64);
    options.first_layer = 1;
    options.hidden = whole.hidden[0].clone();
    const Recorded rest = record(cuda, std::move(options));
    REQUIRE(rest.layers.size() == 1);
    CHECK(same(rest.layers[0].context.keys, whole.layers[1].context.keys));
    CHECK(same(rest.layers[0].probes[1].values, whole.layers[1].probes[1].values));
    CHECK(same(rest.hidden[0], whole.hidden[1]));
  }

  TEST_CASE("logits come back to the host") {
    const ModelConfig config = config_of(4);
    const MadeWeights made(config);
    const Transformer cpu(config, made.weights, Precision::bf16), cuda(config, made.weights, cuda_operations());
    const Tensor hidden = cpu.embed(tokens_of(9));
    const Tensor on_device = cuda.operations().upload(hidden.clone());
    CHECK(same(cuda.operations().download(cuda.embed(tokens_of(9))), hidden));
    CHECK(distance(cpu.logits(hidden), cuda.logits(on_device)) < kLayerBound);
    CHECK(distance(cpu.logits(hidden.view().slice(3, 4)), cuda.logits(on_device.view().slice(3, 4))) < kLayerBound);
  }

  TEST_CASE("what the device does not keep is an error") {
    const ModelConfig config = config_of(4);
    const MadeWeights made(config);
    Transformer cuda(config, made.weights, cuda_operations());
    CHECK_THROWS_WITH_AS(record(cuda, options_of(64, DType::f32), 20),
                         "a CUDA device keeps keys and values in bf16 or f16, found f32", Error);
    CHECK_THROWS_AS((void)cuda.embed(std::vector<int32_t>{70}), Error);
  }
}
