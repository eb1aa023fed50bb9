// The forward pass against transformers (golden models) and a trained public model.
#include <cstring>

#include "golden_models.hpp"
#include "lib/attention/dense_cache.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/model/sampler.hpp"

namespace squeeze {
namespace {

constexpr double kTolerance = 1e-4;  // absolute, on logits

// Logits of all tokens, computed chunk by chunk.
Tensor logits_in_chunks(const golden::Model& model, int64_t chunk, Precision precision = Precision::f32,
                        DType cache = DType::f32) {
  const std::vector<int32_t> tokens = golden::prompt().tokens;
  const auto n = static_cast<int64_t>(tokens.size());
  Transformer transformer = model.transformer(precision);
  transformer.set_sequence_length(n);
  DenseCache attention(model.files.info(), cache);
  Tensor all(DType::f32, {n, model.files.config().vocab_size});
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const auto part =
        std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(std::min(chunk, n - begin)));
    const TensorView logits = transformer.forward(part, begin, attention, true);
    std::memcpy(all.at(begin * all.size(1)), logits.data(), logits.n_bytes());
  }
  return all;
}

bool same_bytes(TensorView a, TensorView b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.data(), b.data(), a.n_bytes()) == 0;
}

struct ThreadCount {
  explicit ThreadCount(int n) : before(n_threads()) { set_threads(n); }
  ~ThreadCount() { set_threads(before); }
  int before;
};

}  // namespace

TEST_SUITE("transformer") {
  TEST_CASE("float32 logits agree with transformers for every architecture and RoPE kind") {
    const std::vector<std::string> names = golden::model_names();
    REQUIRE(names.size() >= 18);
    for (const std::string& name : names) {
      CAPTURE(name);
      const golden::Model model(name);
      for (const int64_t chunk : {300, 64, 7, 1}) {
        CAPTURE(chunk);
        CHECK(golden::largest_error(model, logits_in_chunks(model, chunk)) < kTolerance);
      }
    }
  }

  TEST_CASE("sequences that share a forward pass get what each gets alone") {
    for (const char* name : {"llama_gqa", "qwen3"}) {
      const golden::Model model(name);
      for (const Precision precision : {Precision::f32, Precision::bf16}) {
        const Transformer transformer = model.transformer(precision);
        const std::vector<int32_t> tokens = golden::prompt().tokens;
        for (const int64_t n : {1, 3, 8}) {
          std::vector<std::unique_ptr<DenseCache>> together, alone;
          std::vector<int64_t> lengths;
          for (int64_t i = 0; i < n; ++i) {
            lengths.push_back(5 + 13 * i);
            const auto start = std::span(tokens).first(static_cast<size_t>(lengths.back()));
            for (auto* caches : {&together, &alone}) {
              caches->push_back(std::make_unique<DenseCache>(model.files.info(), DType::bf16));
              (void)transformer.forward(start, 0, *caches->back());
            }
          }
          for (int step = 0; step < 3; ++step) {
            std::vector<SequenceToken> batch;
            for (size_t i = 0; i < lengths.size(); ++i) {
              batch.push_back({tokens[static_cast<size_t>(lengths[i] + step)], lengths[i] + step, together[i].get()});
            }
            const Tensor logits = transformer.forward_each(batch).clone();
            REQUIRE(logits.size(0) == n);
            for (int64_t i = 0; i < n; ++i) {
              const SequenceToken& own = batch[static_cast<size_t>(i)];
              CHECK(same_bytes(logits.view().slice(i, i + 1),
                               transformer.forward({&own.token, 1}, own.position, *alone[static_cast<size_t>(i)])));
            }
          }
          std::vector<SequenceToken> batch, other;
          for (size_t i = 0; i < lengths.size(); ++i) {
            batch.push_back({tokens[0], lengths[i] + 3, together[i].get()});
            other.push_back({tokens[0], lengths[i] + 3, alone[i].get()});
          }
          const TensorView logits = transformer.forward_each(batch);
          std::vector<int32_t> best;
          for (int64_t i = 0; i < n; ++i) best.push_back(greedy_token({logits[i].f32(), size_t(logits.size(1))}));
          const std::span<const int32_t> chosen = transformer.greedy_each(other);
          CHECK(std::vector<int32_t>(chosen.begin(), chosen.end()) == best);
        }
        CHECK_THROWS_AS((void)transformer.forward_each({}), Error);
      }
    }
  }

  TEST_CASE("forward returns the last token's logits unless all are asked for") {
    const golden::Model model("llama_gqa");
    const std::vector<int32_t> tokens{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    DenseCache one(model.files.info(), DType::f32), two(model.files.info(), DType::f32);
    const Transformer transformer = model.transformer();
    const Tensor last = transformer.forward(tokens, 0, one).clone();
    const TensorView all = transformer.forward(tokens, 0, two, true);
    REQUIRE(last.shape() == Shape{1, 48});
    REQUIRE(all.shape() == Shape{12, 48});
    for (int64_t j = 0; j < 48; ++j) CHECK(last.f32()[j] == doctest::Approx(all[11].f32()[j]).epsilon(1e-5));
  }

  // Rounding the inputs of a product to bf16 (8 significant bits) changes each by at most 2^-8; the test models have a
  // few layers and logits up to about 5, so that errors of the order of 0.1 are rounding and errors of 1 are not.
  TEST_CASE("bf16 logits stay within rounding of float32, and differ") {
    for (const char* name : {"llama_gqa", "qwen3", "llama_bias"}) {
      CAPTURE(name);
      const golden::Model model(name);
      for (const int64_t chunk : {300, 1}) {
        const double error = golden::largest_error(model, logits_in_chunks(model, chunk, Precision::bf16, DType::bf16));
        CHECK(error > kTolerance);
        CHECK(error < 0.3);
      }
    }
  }

  TEST_CASE("logits do not depend on the number of threads") {
    for (const Precision precision : {Precision::f32, Precision::bf16}) {
      for (const int64_t chunk : {300, 3}) {
        const golden::Model model("head_dim_80");
        const auto run = [&](int n) {
          const ThreadCount threads(n);
          return logits_in_chunks(model, chunk, precision);
        };
        CHECK(same_bytes(run(1), run(2)));
        CHECK(same_bytes(run(1), run(5)));
      }
    }
  }

  TEST_CASE("a token outside the vocabulary and an empty pass are errors") {
    const golden::Model model("llama_mha");
    const Transformer transformer = model.transformer();
    CHECK_THROWS_AS(transformer.embed(std::vector<int32_t>{48}), Error);
    CHECK_THROWS_AS(transformer.embed(std::vector<int32_t>{-1}), Error);
    DenseCache cache(model.files.info(), DType::f32);
    CHECK_THROWS_AS(transformer.forward({}, 0, cache), Error);
  }

  TEST_CASE("a sequence longer than the sliding window is an error, a shorter one is not") {
    const golden::Model model("mistral");
    ModelConfig config = model.files.config();
    config.sliding_window = 10;
    const Transformer transformer(config, model.files.weights(), Precision::f32);
    DenseCache cache(model.files.info(), DType::f32);
    const std::vector<int32_t> tokens(10, 1);
    CHECK_NOTHROW(transformer.forward(tokens, 0, cache));
    CHECK_THROWS_WITH_AS(transformer.forward(std::span(tokens).first(1), 10, cache),
                         doctest::Contains("sliding window of 10"), Error);
  }

  TEST_CASE("a trained public model writes its reference text greedily") {
    const std::string folder = std::string(SQUEEZE_SOURCE_DIR) + "/../shared/data/stories260K";
    if (!std::filesystem::exists(folder)) {
      MESSAGE("skipped: ../shared/data/stories260K is not here");
      return;
    }
    const nlohmann::json reference = nlohmann::json::parse(std::ifstream(folder + "/reference.json"));
    const auto expected = reference["greedy_ids"].get<std::vector<int32_t>>();
    auto tokens = reference["prompt_ids"].get<std::vector<int32_t>>();
    const HfModel model(folder);
    const Transformer transformer(model.config(), model.weights(), Precision::f32);
    DenseCache cache(model.info(), DType::f32);
    std::vector<int32_t> generated;
    int64_t position = 0;
    while (generated.size() < expected.size()) {
      const TensorView logits = transformer.forward(tokens, position, cache);
      position += static_cast<int64_t>(tokens.size());
      const auto best = std::max_element(logits.f32(), logits.f32() + logits.size(1));
      generated.push_back(static_cast<int32_t>(best - logits.f32()));
      tokens = {generated.back()};
    }
    CHECK(generated == expected);
    const Tokenizer tokenizer = model.tokenizer();
    CHECK(tokenizer.encode("Once upon a time", true) == reference["prompt_ids"].get<std::vector<int32_t>>());
    CHECK(tokenizer.decode(generated, true) == reference["greedy_text"].get<std::string>());
  }
}

}  // namespace squeeze
