// Tests of scoring: log-probabilities and divergences by hand, against transformers, and as laws over a context.
#include "lib/model/score.hpp"

#include <numeric>

#include "lib/attention/context_attention.hpp"
#include "lib/attention/dense_cache.hpp"
#include "lib/core/error.hpp"
#include "tests/golden_models.hpp"
#include "tests/golden_tokenizers.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = INFINITY;

std::vector<float> logits_of(const std::vector<double>& probabilities, double shift = 0) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

// Tokens [begin, end) of the golden prompt.
std::vector<int32_t> golden_tokens(int64_t begin, int64_t end) {
  const std::vector<int32_t> all = golden::prompt().tokens;
  return {all.begin() + begin, all.begin() + end};
}

double total(const TokenScores& scores) { return std::accumulate(scores.logprobs.begin(), scores.logprobs.end(), 0.0); }

void check_close(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= tolerance);
}

// A golden model, and the first 150 golden tokens as its clustered context.
struct ScoredContext {
  static constexpr int64_t kTokens = 150;

  golden::Model model{"llama_gqa"};
  Transformer transformer = model.transformer();
  std::vector<IndexLayer> layers;
  ContextView view{model.files.info(), {}};

  ScoredContext() {
    DenseCache cache(model.files.info(), DType::f32);
    (void)transformer.hidden_states(golden_tokens(0, kTokens), 0, cache);
    for (int layer = 0; layer < view.model.n_layers; ++layer) {
      layers.push_back(
          build_layer(cache.keys(layer), cache.values(layer), options_with({{.count = 4}, {.count = 16}})));
    }
    for (const IndexLayer& layer : layers) view.layers.push_back(heads_of(layer));
  }

  ContextAttention top_p(double share) const {
    return {view, rule_policy({.rule = Rule::top_p, .thresholds = {}, .top_p = share}, view.model.softmax_scale),
            Rest::drop};
  }
  ContextAttention dense() const { return {view, dense_policy(), Rest::drop}; }
  Score run(const GivenTokens& given, Attention& attention, Attention* compared = nullptr) const {
    return score(transformer, given, kTokens, {.chunk = 16}, attention, compared);
  }
};

// Remembers what it is called with and attends to nothing.
struct Spy final : Attention {
  std::vector<std::pair<int64_t, int64_t>> calls;  // first position, number of tokens; of layer 0
  Tensor output;
  TensorView attend(const AttentionInput& input) override {
    if (input.layer == 0) calls.emplace_back(input.first_position, input.queries.size(0));
    output = Tensor::zeros(DType::f32, input.queries.shape());
    return output;
  }
};

}  // namespace

TEST_SUITE("score") {
  TEST_CASE("log-probabilities are the logarithms of the softmax, whatever is added to the logits") {
    for (const double shift : {0.0, 700.0, -700.0}) {
      const std::vector<float> logits = logits_of({0.5, 0.25, 0.125, 0.125}, shift);
      const double tolerance = 1e-6 + 1e-7 * std::abs(shift);  // of the logits, in float32
      CHECK(std::abs(log_probability(logits, 0) - std::log(0.5)) < tolerance);
      CHECK(std::abs(log_probability(logits, 3) - std::log(0.125)) < tolerance);
      double sum = 0;
      for (int32_t token = 0; token < 4; ++token) sum += std::exp(log_probability(logits, token));
      CHECK(std::abs(sum - 1) < 1e-13);
    }
    CHECK(log_probability(std::vector<float>{0, -kInfinity}, 0) == 0);
    CHECK(log_probability(std::vector<float>{0, -kInfinity}, 1) == -kInfinity);
    CHECK_THROWS_AS(log_probability(std::vector<float>{0, NAN}, 0), Error);
    CHECK_THROWS_AS(log_probability(std::vector<float>{0, 1}, 2), Error);
    CHECK_THROWS_AS(log_probability(std::vector<float>{0, 1}, -1), Error);
  }

  TEST_CASE("divergence: 0 for the same distribution, by hand for two, never negative") {
    const std::vector<float> p = logits_of({0.5, 0.5}), q = logits_of({0.25, 0.75});
    CHECK(kl_divergence(p, q) == doctest::Approx(0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3)).epsilon(1e-6));
    CHECK(kl_divergence(q, p) == doctest::Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)).epsilon(1e-6));
    CHECK(kl_divergence(p, std::vector<float>{0, -kInfinity}) == kInfinity);
    CHECK(kl_divergence(std::vector<float>{0, -kInfinity}, p) == doctest::Approx(std::log(2.0)));
    for (unsigned seed = 0; seed < 20; ++seed) {
      const Tensor a = random_tensor({1000}, seed), b = random_tensor({1000}, seed + 100);
      CHECK(kl_divergence({a.f32(), 1000}, {a.f32(), 1000}) < 1e-14);
      CHECK(kl_divergence({a.f32(), 1000}, {a.f32(), 1000}) >= 0);
      CHECK(kl_divergence({a.f32(), 1000}, {b.f32(), 1000}) > 0.1);
    }
  }

  TEST_CASE("scores add up") {
    TokenScores all{{-1, -2}, {-1, -3}, {0, 1}};
    all.append({{-4}, {-5}, {2}});
    CHECK(all.logprobs == std::vector<double>{-1, -2, -4});
    CHECK(all.dense_logprobs == std::vector<double>{-1, -3, -5});
    CHECK(all.kl == std::vector<double>{0, 1, 2});
    CHECK(mean(all.kl) == 1);
    CHECK(std::isnan(mean({})));
  }

  // A log-probability is a logit less a mean of logits of a kind: off by at most twice the logits' tolerance.
  TEST_CASE("log-probabilities agree with the logits of transformers for every golden model") {
    const golden::Prompt prompt = golden::prompt();
    const GivenTokens given{golden_tokens(0, 200), golden_tokens(200, 300)};
    for (const std::string& name : golden::model_names()) {
      CAPTURE(name);
      const golden::Model model(name);
      Transformer transformer = model.transformer();
      transformer.set_sequence_length(300);
      DenseCache cache(model.files.info(), DType::f32);
      const Score scores = score(transformer, given, 0, {.chunk = 64}, cache);
      REQUIRE(scores.prompt.n_tokens() == 199);
      REQUIRE(scores.completion.n_tokens() == 100);
      const TensorView expected = model.expected.tensor("logits");
      for (size_t i = 0; i < prompt.positions.size(); ++i) {
        const auto next = static_cast<size_t>(prompt.positions[i] + 1);
        if (next == 300) continue;
        const std::span<const float> row{expected[static_cast<int64_t>(i)].f32(),
                                         static_cast<size_t>(expected.size(1))};
        double sum = 0;
        for (const float logit : row) sum += std::exp(double{logit});
        const double truth = double{row[static_cast<size_t>(prompt.tokens[next])]} - std::log(sum);
        const double found = next < 200 ? scores.prompt.logprobs[next - 1] : scores.completion.logprobs[next - 200];
        CHECK(std::abs(found - truth) < 2e-4);
      }
    }
  }

  TEST_CASE("a sequence has one probability, however it is cut into prompt, completion and chunks") {
    const golden::Model model("qwen3");
    const Transformer transformer = model.transformer();
    const auto sum = [&](int64_t n_prompt, const ScoreOptions& options) {
      DenseCache cache(model.files.info(), DType::f32);
      const Score s = score(transformer, {golden_tokens(0, n_prompt), golden_tokens(n_prompt, 90)}, 0, options, cache);
      CHECK(s.prompt.n_tokens() + s.completion.n_tokens() == 89);
      CHECK(s.completion.n_tokens() == (n_prompt == 0 ? 89 : 90 - n_prompt));
      return total(s.prompt) + total(s.completion);
    };
    const double whole = sum(0, {.completion_chunk = 90});
    CHECK(std::exp(whole / 89) < 1);
    for (const int64_t n_prompt : {0, 1, 40, 89}) {
      CHECK(sum(n_prompt, {}) == doctest::Approx(whole).epsilon(1e-5));
      CHECK(sum(n_prompt, {.chunk = 7, .completion_chunk = 3}) == doctest::Approx(whole).epsilon(1e-5));
    }
  }

  TEST_CASE("at full budget nothing diverges from dense attention; below, by 0 or more") {
    const ScoredContext context;
    const GivenTokens given{golden_tokens(150, 190), golden_tokens(190, 220)};
    ContextAttention full = context.top_p(1), dense = context.dense();
    const Score same = context.run(given, full, &dense);
    REQUIRE(same.completion.kl.size() == 30);
    REQUIRE(same.prompt.kl.size() == 39);
    check_close(same.completion.logprobs, same.completion.dense_logprobs, 1e-5);
    for (const double kl : same.completion.kl) CHECK(kl < 1e-9);  // quadratic in the logits' rounding
    for (const double kl : same.prompt.kl) CHECK(kl < 1e-9);

    ContextAttention sparse = context.top_p(0.05), dense_again = context.dense(), dense_alone = context.dense();
    const Score less = context.run(given, sparse, &dense_again);
    CHECK(sparse.usage().budget() < 0.9);
    CHECK(less.completion.dense_logprobs == same.completion.dense_logprobs);
    CHECK(less.completion.dense_logprobs == context.run(given, dense_alone).completion.logprobs);
    for (const double kl : less.completion.kl) CHECK(kl >= 0);
    CHECK(mean(less.completion.kl) > 100 * mean(same.completion.kl));
  }

  TEST_CASE("a greedy answer's tokens score what generating them scored") {
    const ScoredContext context;
    const std::vector<int32_t> prompt = golden_tokens(150, 160);
    ContextAttention attention = context.top_p(0.3);
    std::vector<double> generated;
    std::vector<int32_t> answer;
    TensorView logits = context.transformer.forward(prompt, ScoredContext::kTokens, attention);
    for (int64_t n = 0; n < 12; ++n) {
      const std::span<const float> row{logits.f32(), static_cast<size_t>(logits.size(1))};
      const int32_t token = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
      answer.push_back(token);
      generated.push_back(log_probability(row, token));
      logits = context.transformer.forward({&token, 1}, ScoredContext::kTokens + std::ssize(prompt) + n, attention);
    }
    attention.clear_tail();
    check_close(context.run({prompt, answer}, attention).completion.logprobs, generated, 1e-5);
  }

  TEST_CASE("a text scores the same after another as alone") {
    const ScoredContext context;
    const GivenTokens first{golden_tokens(200, 230), golden_tokens(1, 9)};
    const GivenTokens second{golden_tokens(150, 170), golden_tokens(170, 180)};
    ContextAttention one = context.top_p(0.3), other = context.top_p(0.3);
    (void)context.run(first, one);
    one.clear_tail();
    const Score after = context.run(second, one), alone = context.run(second, other);
    CHECK(after.completion.logprobs == alone.completion.logprobs);
    CHECK(after.prompt.logprobs == alone.prompt.logprobs);
    CHECK(after.completion.kl.empty());
    CHECK(after.completion.dense_logprobs.empty());
  }

  TEST_CASE("the prompt runs in chunks, the completion token by token, its last token not at all") {
    const golden::Model model("llama_gqa");
    const Transformer transformer = model.transformer();
    Spy spy;
    int64_t done = 0;
    const ScoreOptions options{.chunk = 2, .progress = [&](const ProgressStep& step) {
                                 CHECK(step.total == 7);
                                 CHECK(step.done > std::exchange(done, step.done));
                               }};
    (void)score(transformer, {{1, 2, 3, 4, 5}, {6, 7, 8}}, 100, options, spy);
    const std::vector<std::pair<int64_t, int64_t>> expected{{100, 2}, {102, 2}, {104, 1}, {105, 1}, {106, 1}};
    CHECK(spy.calls == expected);
    CHECK(done == 7);
  }

  TEST_CASE("what cannot be scored is refused") {
    const golden::Model model("llama_gqa");
    const Transformer transformer = model.transformer();
    const auto run = [&](const GivenTokens& given, const ScoreOptions& options = {}, int64_t first_position = 0) {
      Spy spy;
      return score(transformer, given, first_position, options, spy);
    };
    CHECK_THROWS_WITH_AS(run({{1}, {}}), doctest::Contains("completion is empty"), Error);
    CHECK_THROWS_WITH_AS(run({{}, {1}}), doctest::Contains("nothing predicts"), Error);
    CHECK(run({{1}, {2}}).completion.n_tokens() == 1);
    CHECK(run({{}, {1, 2}}).completion.n_tokens() == 1);
    CHECK_THROWS_AS(run({{1}, {48}}), Error);
    CHECK_THROWS_AS(run({{1}, {2}}, {.chunk = 0}), Error);
    CHECK_THROWS_AS(run({{1}, {2}}, {.completion_chunk = 0}), Error);
    CHECK_THROWS_AS(run({{1}, {2}}, {}, -1), Error);
  }

  TEST_CASE("a completion is cut as in running text, unless that would change the prompt's tokens") {
    const Tokenizer words = sentencepiece(false);
    const GivenTokens given = encode_given(words, "the cat", " sat");
    std::vector<int32_t> all = given.prompt;
    all.insert(all.end(), given.completion.begin(), given.completion.end());
    CHECK(given.prompt == words.encode("the cat", false));
    CHECK(all == words.encode("the cat sat", false));
    CHECK(given.completion != words.encode(" sat", false));  // alone it would begin as a text does

    // "a" then "b" would be one token: the prompt stays what it is.
    const Tokenizer pairs = Tokenizer::from_json(R"({"version": "1.0", "added_tokens": [], "normalizer": null,
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
      "post_processor": null,
      "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
      "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})",
                                                 "test");
    const auto completion = [&](const char* prompt, const char* text) {
      return encode_given(pairs, prompt, text).completion;
    };
    CHECK(completion("a", "b") == std::vector<int32_t>{1});
    CHECK(completion("b", "ab") == std::vector<int32_t>{2});
    CHECK(completion("", "ab") == std::vector<int32_t>{2});
    CHECK(completion("a", "") == std::vector<int32_t>{});
  }
}

}  // namespace squeeze
