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

// The device rounds as the CPU does with bf16, and queries and softmax weights of attention besides; sums in another
// order can round the other way. So it is about as far from float32 as the CPU is.
void check_as_near(TensorView truth, TensorView cpu, TensorView cuda) {
  const double far = distance(truth, cpu);
  CHECK(far < 0.03);
  CHECK(distance(truth, cuda) < 1.5 * far + 1e-6);
}

void check_as_near(const KvLayer& truth, const KvLayer& cpu, const KvLayer& cuda) {
  check_as_near(truth.keys, cpu.keys, cuda.keys);
  check_as_near(truth.values, cpu.values, cuda.values);
  check_as_near(truth.queries, cpu.queries, cuda.queries);
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
      Transformer f32(config, made.weights, Precision::f32), cpu(config, made.weights, Precision::bf16),
          cuda(config, made.weights, cuda_operations());
      CHECK(cuda.precision() == Precision::bf16);
      const DType dtype = kind.qk_norm ? DType::f16 : DType::bf16;
      const Recorded truth = record(f32, options_of(64, DType::f32)), expected = record(cpu, options_of(64, dtype)),
                     found = record(cuda, options_of(48, dtype));
      REQUIRE(found.layers.size() == 2);
      for (size_t layer = 0; layer < 2; ++layer) {
        CHECK(found.layers[layer].context.keys.dtype() == dtype);
        check_as_near(truth.layers[layer].context, expected.layers[layer].context, found.layers[layer].context);
        REQUIRE(found.layers[layer].probes.size() == 2);
        for (size_t p = 0; p < 2; ++p) {
          check_as_near(truth.layers[layer].probes[p], expected.layers[layer].probes[p], found.layers[layer].probes[p]);
        }
        check_as_near(truth.hidden[layer], expected.hidden[layer], found.hidden[layer]);
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
    // One rounding, of the normalised states, which may go the other way.
    CHECK(distance(cpu.logits(hidden), cuda.logits(on_device)) < 0x1p-8);
    CHECK(distance(cpu.logits(hidden.view().slice(3, 4)), cuda.logits(on_device.view().slice(3, 4))) < 0x1p-8);
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
