// Tests of generate: text streams with stop strings, and the loop with a model that recites its vocabulary.
#include "lib/model/generate.hpp"

#include <doctest/doctest.h>

#include "lib/attention/context_attention.hpp"
#include "lib/core/error.hpp"
#include "lib/model/text_stream.hpp"
#include "tests/made_attention.hpp"

namespace squeeze {
namespace {

// The bytes of "é" are two tokens, "<end>" is special.
constexpr int32_t kFirstByte = 3, kEnd = 7, kVocab = 8;
constexpr const char* kTokenizer = R"({
  "version": "1.0",
  "added_tokens": [{"id": 7, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "c": 2, "Ã": 3, "©": 4, "d": 5, "e": 6}, "merges": []}})";

// Remembers what it is called with and attends to nothing.
struct Spy final : Attention {
  std::vector<std::pair<int64_t, int64_t>> calls;  // first position, number of tokens
  Tensor output;
  TensorView attend(const AttentionInput& input) override {
    calls.emplace_back(input.first_position, input.queries.size(0));
    output = Tensor::zeros(DType::f32, input.queries.shape());
    return output;
  }
};

// One layer that adds nothing: the token after i is i + 1, after the last the first.
struct Reciter {
  Tensor one_hot = Tensor::zeros(DType::f32, {kVocab, kVocab});
  Tensor next = Tensor::zeros(DType::f32, {kVocab, kVocab});
  Tensor zero = Tensor::zeros(DType::f32, {kVocab, kVocab});
  Tensor ones = Tensor::zeros(DType::f32, {kVocab});
  Tokenizer tokenizer = Tokenizer::from_json(kTokenizer, "test");
  ModelConfig config;

  Reciter() {
    for (int64_t i = 0; i < kVocab; ++i) {
      ones.f32()[i] = 1;
      one_hot.f32()[i * kVocab + i] = 1;
      next.f32()[(i + 1) % kVocab * kVocab + i] = 1;
    }
    config.architecture = "LlamaForCausalLM";
    config.hidden_size = config.intermediate_size = config.vocab_size = kVocab;
    config.n_layers = config.n_query_heads = config.n_kv_heads = 1;
    config.head_dim = kVocab;
    config.max_positions = 1000;
  }

  Transformer transformer() const {
    LayerWeights layer;
    layer.attention_norm = layer.mlp_norm = ones;
    layer.q = layer.k = layer.v = one_hot;
    layer.o = layer.gate = layer.up = layer.down = zero;
    return Transformer(config, {one_hot, ones, next, {layer}}, Precision::f32);
  }

  Generation run(std::vector<int32_t> prompt, const GenerateOptions& options, Attention& attention,
                 int64_t first_position = 0, const OnText& on_text = {}) const {
    Transformer model = transformer();
    return generate(model, tokenizer, attention, prompt, first_position, options, on_text);
  }
  Generation run(std::vector<int32_t> prompt, const GenerateOptions& options) const {
    Spy spy;
    return run(std::move(prompt), options, spy);
  }
};

GenerateOptions with_stop(std::vector<std::string> stop, int64_t max_tokens = 20) {
  GenerateOptions options;
  options.stop = std::move(stop);
  options.max_tokens = max_tokens;
  return options;
}

// The pieces of a text that grows by the given steps.
std::vector<std::string> pieces(TextStream& stream, const std::vector<std::string>& texts) {
  std::vector<std::string> out;
  for (const std::string& text : texts) out.push_back(stream.advance(text));
  return out;
}

}  // namespace

TEST_SUITE("generate") {
  TEST_CASE("text is final as it grows") {
    TextStream stream({});
    CHECK(pieces(stream, {"one", "one two", "one two"}) == std::vector<std::string>{"one", " two", ""});
    CHECK(stream.finish("one two!") == "!");
  }

  TEST_CASE("what may become a stop string is held back until it is not") {
    TextStream stream({"END", "\n\n"});
    CHECK(pieces(stream, {"aE", "aEN", "aENx", "aENx\n", "aENx\nE"}) ==
          std::vector<std::string>{"a", "", "ENx", "", "\n"});
    CHECK_FALSE(stream.stopped());
    CHECK(stream.finish("aENx\nE") == "E");
  }

  TEST_CASE("text ends before the first stop string, across steps") {
    TextStream stream({"END", "NDX"});
    CHECK(pieces(stream, {"abE", "abEN", "abENDX more"}) == std::vector<std::string>{"ab", "", ""});
    CHECK(stream.stopped());
    CHECK(stream.finish("abENDX more and more") == "");

    TextStream both({"later", "now"});
    CHECK(both.advance("see now or later") == "see ");
    CHECK(both.stopped());

    TextStream at_once({"x"});
    CHECK(at_once.finish("x") == "");
    CHECK(at_once.stopped());
  }

  TEST_CASE("a stop string that overlaps itself is found") {
    TextStream stream({"aab"});
    CHECK(pieces(stream, {"a", "aa", "aaa", "aaab"}) == std::vector<std::string>{"", "", "a", ""});
    CHECK(stream.stopped());
  }

  TEST_CASE("unfinished characters are held back") {
    TextStream stream({});
    CHECK(pieces(stream, {"x\xEF\xBF\xBD", "x\xEF\xBF\xBD\xEF\xBF\xBD", "x\xE2\x82\xAC"}) ==
          std::vector<std::string>{"x", "", "\xE2\x82\xAC"});
    CHECK(stream.finish("x\xE2\x82\xAC\xEF\xBF\xBD") == "\xEF\xBF\xBD");
    CHECK_THROWS_AS(TextStream({"ok", ""}), Error);
  }

  TEST_CASE("tokens until max_tokens") {
    const Reciter reciter;
    const Generation g = reciter.run({0}, with_stop({}, 5));
    CHECK(g.tokens == std::vector<int32_t>{1, 2, 3, 4, 5});
    CHECK(g.text ==
          "bc\xC3\xA9"
          "d");
    CHECK(g.finish_reason == "length");
    CHECK(g.n_prompt_tokens == 1);
    CHECK(g.warning.empty());
    CHECK(g.prefill_ms > 0);
    CHECK(g.decode_ms_per_token > 0);
    CHECK(reciter.run({0}, with_stop({}, 0)).tokens.empty());
    CHECK(reciter.run({0}, with_stop({}, 3)).text == "bc\xEF\xBF\xBD");
  }

  TEST_CASE("stop tokens end the answer and are not part of it") {
    const Reciter reciter;
    GenerateOptions options = with_stop({});
    options.stop_tokens = {kEnd};
    const Generation g = reciter.run({0}, options);
    CHECK(g.tokens == std::vector<int32_t>{1, 2, 3, 4, 5, 6});
    CHECK(g.text ==
          "bc\xC3\xA9"
          "de");
    CHECK(g.finish_reason == "stop");
    CHECK(reciter.run({6}, options).tokens.empty());
    CHECK(reciter.run({6}, options).finish_reason == "stop");
    CHECK(reciter.run({0}, with_stop({"<end>"})).tokens == g.tokens);  // a special token by its name
  }

  TEST_CASE("stop strings cut the text, across tokens and within characters") {
    const Reciter reciter;
    const Generation g = reciter.run({0}, with_stop({"c\xC3\xA9"
                                                     "d"}));
    CHECK(g.text == "b");
    CHECK(g.finish_reason == "stop");
    CHECK(g.tokens == std::vector<int32_t>{1, 2, 3, 4, 5});
    CHECK(reciter.run({0}, with_stop({"e", "\xC3\xA9"})).text == "bc");
    CHECK(reciter.run({0}, with_stop({"never"}, 2)).finish_reason == "length");
  }

  TEST_CASE("the pieces that are reported make up the text") {
    const Reciter reciter;
    Spy spy;
    std::vector<std::string> reported;
    const OnText on_text = [&](std::string_view piece) { reported.emplace_back(piece); };
    const Generation g = reciter.run({0}, with_stop({"de"}), spy, 0, on_text);
    CHECK(reported == std::vector<std::string>{"b", "c", "\xC3\xA9"});
    CHECK(g.text == "bc\xC3\xA9");
  }

  TEST_CASE("the prompt runs in chunks at its positions, then token by token") {
    const Reciter reciter;
    Spy spy;
    GenerateOptions options = with_stop({}, 3);
    options.chunk = 2;
    (void)reciter.run({0, 1, 2, 3, 4}, options, spy, 100);
    const std::vector<std::pair<int64_t, int64_t>> expected{{100, 2}, {102, 2}, {104, 1}, {105, 1}, {106, 1}};
    CHECK(spy.calls == expected);
  }

  TEST_CASE("answers continue a context") {
    const Reciter reciter;
    const MadeContext made(1, 60, kVocab, DType::f32, {{.count = 6}});
    ContextView context{{}, {heads_of(made.layer)}};
    context.model.n_layers = context.model.n_query_heads = context.model.n_kv_heads = 1;
    context.model.head_dim = kVocab;
    context.model.softmax_scale = 0.3f;
    ContextAttention attention(context, dense_policy(), Rest::drop);
    CHECK(reciter.run({0, 1}, with_stop({}, 4), attention, 60).tokens == std::vector<int32_t>{2, 3, 4, 5});
    CHECK(attention.usage().n_lookups == 4);
    attention.clear_tail();
    CHECK_THROWS_AS(reciter.run({0, 1}, with_stop({}, 4), attention, 0), Error);
  }

  TEST_CASE("bad requests are refused") {
    const Reciter reciter;
    CHECK_THROWS_WITH_AS(reciter.run({}, with_stop({})), doctest::Contains("prompt is empty"), Error);
    CHECK_THROWS_AS(reciter.run({0}, with_stop({}, -1)), Error);
    CHECK_THROWS_AS(reciter.run({0}, with_stop({""})), Error);
    GenerateOptions options = with_stop({});
    options.chunk = 0;
    CHECK_THROWS_AS(reciter.run({0}, options), Error);
  }

  TEST_CASE("sequences longer than the model was made for warn, longer than a sliding window fail") {
    ModelConfig config;
    config.max_positions = 1000;
    CHECK(check_length(config, 1000).empty());
    CHECK(check_length(config, 1001).find("1000") != std::string::npos);
    config.rope.scaling = RopeScaling::yarn;
    config.rope.factor = 4;
    config.rope.original_positions = 1000;
    CHECK(check_length(config, 4000).empty());
    CHECK_FALSE(check_length(config, 4001).empty());
    config.sliding_window = 500;
    CHECK_NOTHROW(check_length(config, 500));
    CHECK_THROWS_WITH_AS(check_length(config, 501), doctest::Contains("sliding window of 500"), Error);

    Reciter reciter;
    reciter.config.max_positions = 10;
    CHECK_FALSE(reciter.run({0}, with_stop({}, 12)).warning.empty());
  }
}

}  // namespace squeeze
