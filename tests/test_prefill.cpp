// Layer-major prefill: against transformers, chunk by chunk, resumed, with probes, and against a trained model's cache.
#include "lib/model/prefill.hpp"

#include <cstring>

#include "golden_models.hpp"
#include "lib/attention/dense_cache.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

using Probes = std::vector<std::vector<int32_t>>;

struct Recorded {
  std::vector<KvLayer> context;
  std::vector<std::vector<KvLayer>> probes;  // [layer][probe]
  std::vector<Tensor> hidden;                // after each layer
};

KvLayer copy_of(const KvLayer& layer) { return {layer.keys.clone(), layer.values.clone(), layer.queries.clone()}; }

Recorded record(Transformer& transformer, const std::vector<int32_t>& tokens, const Probes& probes,
                PrefillOptions options) {
  Recorded recorded;
  const auto sink = [&](const PrefilledLayer& layer) {
    recorded.context.push_back(copy_of(layer.context));
    recorded.probes.emplace_back();
    for (const KvLayer& probe : layer.probes) recorded.probes.back().push_back(copy_of(probe));
    recorded.hidden.push_back(convert(layer.hidden, DType::f32));
  };
  prefill(transformer, tokens, probes, std::move(options), sink, {});
  return recorded;
}

bool same_bytes(TensorView a, TensorView b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.data(), b.data(), a.n_bytes()) == 0;
}
bool same_bytes(const KvLayer& a, const KvLayer& b) {
  return same_bytes(a.keys, b.keys) && same_bytes(a.values, b.values) && same_bytes(a.queries, b.queries);
}

// The largest difference of [heads, n, dim] from rows [first, first + n) of [heads, n_all, dim].
double largest_difference(TensorView part, TensorView whole, int64_t first = 0) {
  double error = 0;
  for (int64_t head = 0; head < part.size(0); ++head) {
    for (int64_t i = 0; i < part.size(1); ++i) {
      for (int64_t c = 0; c < part.size(2); ++c) {
        const double a = load_element(part[head][i].data(), part.dtype(), c);
        const double b = load_element(whole[head][first + i].data(), whole.dtype(), c);
        if (!(std::abs(a - b) <= error)) error = std::abs(a - b);
      }
    }
  }
  return error;
}

}  // namespace

TEST_SUITE("prefill") {
  TEST_CASE("layer-major logits agree with transformers for every golden model") {
    for (const std::string& name : golden::model_names()) {
      CAPTURE(name);
      const golden::Model model(name);
      Transformer transformer = model.transformer();
      for (const int64_t chunk : {512, 37}) {
        const Recorded recorded =
            record(transformer, golden::prompt().tokens, {}, {.chunk = chunk, .dtype = DType::f32, .hidden = {}});
        CHECK(golden::largest_error(model, transformer.logits(recorded.hidden.back())) < 1e-4);
      }
    }
  }

  TEST_CASE("keys, values and hidden states are those of the token-major pass") {
    const golden::Model model("qwen3");
    const std::vector<int32_t> tokens = golden::prompt().tokens;
    Transformer transformer = model.transformer();
    DenseCache cache(model.files.info(), DType::f32);
    (void)transformer.forward(tokens, 0, cache);
    const Recorded recorded = record(transformer, tokens, {}, {.chunk = 50, .dtype = DType::f32, .hidden = {}});
    for (int layer = 0; layer < 2; ++layer) {
      const KvLayer& got = recorded.context[static_cast<size_t>(layer)];
      CHECK(largest_difference(got.keys, cache.keys(layer)) < 1e-5);
      CHECK(largest_difference(got.values, cache.values(layer)) < 1e-5);
      CHECK(got.queries.shape() == Shape{4, 100, 24});
    }
  }

  TEST_CASE("recorded queries are those of the last tokens, all of them in a short text") {
    const golden::Model model("llama_gqa");
    const std::vector<int32_t> tokens = golden::prompt().tokens;
    Transformer transformer = model.transformer();
    const auto queries = [&](int64_t chunk, int64_t n_queries) {
      auto recorded =
          record(transformer, tokens, {}, {.chunk = chunk, .n_queries = n_queries, .dtype = DType::f32, .hidden = {}});
      return std::move(recorded.context.back().queries);
    };
    const Tensor all = queries(300, 1000);
    REQUIRE(all.shape() == Shape{8, 300, 4});
    CHECK(largest_difference(queries(64, 70), all, 230) < 1e-5);
    CHECK(largest_difference(queries(7, 13), all, 287) < 1e-5);
    CHECK(queries(64, 0).shape() == Shape{8, 0, 4});
  }

  TEST_CASE("each probe is a continuation of the context of its own") {
    const golden::Model model("llama_gqa");
    const std::vector<int32_t> tokens = golden::prompt().tokens;
    const std::vector<int32_t> context(tokens.begin(), tokens.begin() + 250);
    const Probes probes{{tokens.begin() + 250, tokens.end()}, {5, 6, 7}};
    Transformer transformer = model.transformer();
    const auto run = [&](const std::vector<int32_t>& text, const Probes& asked, int64_t n_queries) {
      return record(transformer, text, asked, {.chunk = 30, .n_queries = n_queries, .dtype = DType::f32, .hidden = {}});
    };
    const Recorded recorded = run(context, probes, 100);
    for (size_t p = 0; p < probes.size(); ++p) {
      std::vector<int32_t> whole = context;
      whole.insert(whole.end(), probes[p].begin(), probes[p].end());
      const Recorded expected = run(whole, {}, 1000);
      for (size_t layer = 0; layer < 2; ++layer) {
        const KvLayer& probe = recorded.probes[layer][p];
        REQUIRE(probe.keys.shape() == Shape{2, static_cast<int64_t>(probes[p].size()), 4});
        CHECK(largest_difference(probe.keys, expected.context[layer].keys, 250) < 1e-5);
        CHECK(largest_difference(probe.values, expected.context[layer].values, 250) < 1e-5);
        CHECK(largest_difference(probe.queries, expected.context[layer].queries, 250) < 1e-5);
      }
    }
    const Recorded alone = run(context, {}, 100);
    for (size_t layer = 0; layer < 2; ++layer) CHECK(same_bytes(alone.context[layer], recorded.context[layer]));
  }

  TEST_CASE("a resumed prefill gives the same bytes, with any number of threads") {
    const golden::Model model("qwen2");
    const Probes probes{{1, 2, 3}};
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      Transformer transformer = model.transformer(precision);
      const int before = n_threads();
      set_threads(1);
      Recorded whole = record(transformer, golden::prompt().tokens, probes, {.chunk = 128, .hidden = {}});
      set_threads(3);
      const Recorded rest = record(transformer, golden::prompt().tokens, probes,
                                   {.chunk = 128, .first_layer = 1, .hidden = std::move(whole.hidden[0])});
      set_threads(before);
      REQUIRE(rest.context.size() == 1);
      CHECK(rest.context[0].keys.dtype() == DType::bf16);
      CHECK(same_bytes(rest.context[0], whole.context[1]));
      CHECK(same_bytes(rest.probes[0][0], whole.probes[1][0]));
      CHECK(same_bytes(rest.hidden[0], whole.hidden[1]));
    }
  }

  TEST_CASE("in bf16 attention reads the cache as it is recorded") {
    const golden::Model model("llama_mha");
    Transformer transformer = model.transformer(Precision::bf16);
    const std::vector<int32_t> tokens = golden::prompt().tokens;
    const Recorded recorded = record(transformer, tokens, {}, {.chunk = 300, .dtype = DType::f16, .hidden = {}});
    DenseCache cache(model.files.info(), DType::f16);
    (void)transformer.forward(tokens, 0, cache);
    for (int layer = 0; layer < 2; ++layer) {
      CHECK(same_bytes(recorded.context[static_cast<size_t>(layer)].keys, cache.keys(layer)));
      CHECK(same_bytes(recorded.context[static_cast<size_t>(layer)].values, cache.values(layer)));
    }
  }

  TEST_CASE("progress counts every token of every layer, and may stop the work") {
    const golden::Model model("llama_mha");
    Transformer transformer = model.transformer();
    const std::vector<int32_t> tokens(20, 1);
    std::vector<int64_t> done;
    const auto count = [&](const ProgressStep& step) {
      CHECK(step.total == 2 * 23);
      done.push_back(step.done);
    };
    prefill(
        transformer, tokens, {{1, 2, 3}}, {.chunk = 16, .hidden = {}}, [](const auto&) {}, count);
    CHECK(done == std::vector<int64_t>{16, 20, 23, 39, 43, 46});
    const auto stop = [](const ProgressStep&) { fail("stopped"); };
    CHECK_THROWS_WITH_AS(prefill(
                             transformer, tokens, {}, {}, [](const auto&) {}, stop),
                         "stopped", Error);
  }

  TEST_CASE("bad requests are errors") {
    const golden::Model model("llama_mha");
    Transformer transformer = model.transformer();
    const auto run = [&](std::vector<int32_t> tokens, Probes probes, PrefillOptions options) {
      record(transformer, tokens, probes, std::move(options));
    };
    CHECK_THROWS_AS(run({}, {}, {}), Error);
    CHECK_THROWS_AS(run({1}, {{}}, {}), Error);
    CHECK_THROWS_AS(run({1}, {}, {.chunk = 0, .hidden = {}}), Error);
    CHECK_THROWS_AS(run({1}, {}, {.n_queries = -1, .hidden = {}}), Error);
    CHECK_THROWS_AS(run({1}, {}, {.first_layer = 3, .hidden = {}}), Error);
    CHECK_THROWS_AS(run({1}, {}, {.first_layer = 1, .hidden = Tensor::zeros(DType::f32, {2, 32})}), Error);
    CHECK_THROWS_AS(run({99}, {}, {}), Error);
  }

  TEST_CASE("the cache of a trained public model equals its reference") {
    const std::string folder = std::string(SQUEEZE_SOURCE_DIR) + "/../shared/data/stories260K";
    if (!std::filesystem::exists(folder)) {
      MESSAGE("skipped: ../shared/data/stories260K is not here");
      return;
    }
    const nlohmann::json file = nlohmann::json::parse(std::ifstream(folder + "/reference.json"));
    auto tokens = file["prompt_ids"].get<std::vector<int32_t>>();
    for (const int32_t token : file["greedy_ids"].get<std::vector<int32_t>>()) tokens.push_back(token);
    const Safetensors reference(folder + "/reference_kv.safetensors");
    const HfModel model(folder);
    Transformer transformer(model.config(), model.weights(), Precision::f32);
    const Recorded recorded =
        record(transformer, tokens, {}, {.chunk = 64, .n_queries = 1000, .dtype = DType::f32, .hidden = {}});
    for (size_t layer = 0; layer < recorded.context.size(); ++layer) {
      const auto i = static_cast<int64_t>(layer);
      CHECK(largest_difference(recorded.context[layer].keys, reference.tensor("keys")[i]) < 1e-4);
      CHECK(largest_difference(recorded.context[layer].values, reference.tensor("values")[i]) < 1e-4);
      CHECK(largest_difference(recorded.context[layer].queries, reference.tensor("queries")[i]) < 1e-4);
    }
    const TensorView logits = transformer.logits(recorded.hidden.back());
    const TensorView expected = reference.tensor("logits");
    double error = 0;
    for (int64_t i = 0; i < logits.n_elements(); ++i) {
      error = std::max(error, std::abs(double{logits.f32()[i]} - double{expected.f32()[i]}));
    }
    CHECK(error < 1e-4);
  }
}

}  // namespace squeeze
