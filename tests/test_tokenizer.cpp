// Tokenizers against the tokenizers and sentencepiece libraries (tests/golden/tokenizers), and laws.
#include "lib/model/tokenizer.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"
#include "tests/golden_tokenizers.hpp"

using namespace squeeze;
using nlohmann::json;

namespace {

using Ids = std::vector<int32_t>;

// Code points without a pattern, the same ones each time; without U+2581, which Llama-2-like tokenizers read as a
// space.
std::string random_text(uint32_t seed, size_t n_code_points) {
  std::string text;
  for (size_t i = 0; i < n_code_points; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const uint32_t c = (seed >> 8) % (i % 3 == 0 ? 0x10FFFFu : i % 3 == 1 ? 0x3000u : 0x80u);
    if ((c >= 0xD800 && c <= 0xDFFF) || c == 0x2581) continue;
    append_utf8(text, c);
  }
  return text;
}

}  // namespace

TEST_SUITE("tokenizer") {
  TEST_CASE("ids and texts equal those of the tokenizers library") {
    const json golden = read_json("cases.json");
    for (const json& kind : golden["tokenizers"]) {
      CAPTURE(kind["name"].get<std::string>());
      const Tokenizer tokenizer = patched(kind["file"], kind["patch"]);
      for (const json& expected : kind["cases"]) {
        const auto text = expected[0].get<std::string>();
        CAPTURE(text);
        const Ids ids = tokenizer.encode(text, true);
        CHECK(tokenizer.encode(text, false) == expected[1].get<Ids>());
        CHECK(ids == expected[2].get<Ids>());
        if (!expected[3].is_null()) CHECK(tokenizer.decode(ids, false) == expected[3].get<std::string>());
        if (!expected[4].is_null()) CHECK(tokenizer.decode(ids, true) == expected[4].get<std::string>());
      }
    }
  }

  TEST_CASE("ids and texts equal those of the sentencepiece library") {
    const Tokenizer tokenizer = sentencepiece(false);
    const json golden = read_json("cases.json");
    for (const json& expected : golden["sentencepiece"]) {
      const auto text = expected[0].get<std::string>();
      CAPTURE(text);
      const Ids ids = tokenizer.encode(text, false);
      CHECK(ids == expected[1].get<Ids>());
      CHECK(tokenizer.decode(ids, true) == expected[2].get<std::string>());
    }
  }

  TEST_CASE("a SentencePiece model adds BOS, and knows its control tokens in a text") {
    const Tokenizer tokenizer = sentencepiece(true);
    const Ids plain = tokenizer.encode("the keys", false);
    Ids with_bos = plain;
    with_bos.insert(with_bos.begin(), *tokenizer.token_id("<s>"));
    CHECK(tokenizer.encode("the keys", true) == with_bos);
    CHECK(tokenizer.encode_context("the keys") == with_bos);
    CHECK(tokenizer.encode("<s>the keys", false) == with_bos);
    CHECK(tokenizer.decode(with_bos, false) == "<s> the keys");
    CHECK(tokenizer.decode(with_bos, true) == "the keys");
    CHECK(tokenizer.is_special(*tokenizer.token_id("</s>")));
    CHECK_FALSE(tokenizer.is_special(plain[0]));
    CHECK_FALSE(tokenizer.is_special(-1));
    CHECK_FALSE(tokenizer.token_id("no such piece").has_value());
    CHECK(tokenizer.vocab_size() == 700);
  }

  TEST_CASE("a context gets only what the template puts in front") {
    const Tokenizer tokenizer = patched("metaspace.json");  // <s> text </s>
    const Ids all = tokenizer.encode("the keys", true);
    CHECK(all.back() == *tokenizer.token_id("</s>"));
    CHECK(tokenizer.encode_context("the keys") == Ids(all.begin(), all.end() - 1));
    CHECK(tokenizer.is_special(all.front()));
    CHECK(tokenizer.encode_context("") == Ids{*tokenizer.token_id("<s>")});
  }

  TEST_CASE("byte-level and byte-fallback tokenizers give any text back") {
    for (const std::string name : {"gpt2.json", "llama3.json", "llama2.json"}) {
      CAPTURE(name);
      const Tokenizer tokenizer = patched(name);
      for (uint32_t seed = 0; seed < 200; ++seed) {
        const std::string text = random_text(seed, seed);
        CHECK(tokenizer.decode(tokenizer.encode(text, true), true) == text);
      }
    }
  }

  TEST_CASE("tokens that are cut out of a character decode to U+FFFD, unknown ids to nothing") {
    const Tokenizer bytes = patched("gpt2.json");
    const Ids euro = bytes.encode("\u20AC", false);
    REQUIRE(euro.size() == 3);
    CHECK(bytes.decode(Ids{euro[0], euro[1]}, true) == "\uFFFD");
    CHECK(bytes.decode(Ids{euro[1], euro[2]}, true) == "\uFFFD\uFFFD");
    const Tokenizer fallback = patched("llama2.json");
    const Ids kept = {*fallback.token_id("<0xE2>"), *fallback.token_id("<0x82>")};
    CHECK(fallback.decode(kept, true) == "\uFFFD\uFFFD");
    CHECK(bytes.decode(Ids{-1, bytes.vocab_size(), INT32_MAX, INT32_MIN}, false) == "");
    CHECK(sentencepiece(false).decode(Ids{-1, 700, INT32_MAX}, false) == "");
  }

  TEST_CASE("invalid UTF-8 is refused with its offset") {
    const Tokenizer tokenizers[] = {patched("gpt2.json"), patched("llama2.json"), sentencepiece(true)};
    for (const Tokenizer& tokenizer : tokenizers) {
      CHECK_THROWS_WITH_AS((void)tokenizer.encode("abc\xC3", false), doctest::Contains("offset 3"), Error);
      CHECK_THROWS_AS((void)tokenizer.encode_context("\xED\xA0\x80"), Error);
    }
  }

  // A quadratic encoder would take minutes here.
  TEST_CASE("long text without a space, or of one character, is encoded in about linear time") {
    const size_t n = 1u << 18;
    std::string cjk;
    for (uint32_t i = 0; cjk.size() < n; ++i) {
      append_utf8(cjk, 0x4E00 + i * 7919 % 0x5000);
    }
    std::string marks;  // in the wrong canonical order
    while (marks.size() < n) marks += "\u0301\u0323";
    for (const std::string name : {"llama3.json", "qwen2.json", "llama2.json", "metaspace.json"}) {
      const Tokenizer tokenizer = patched(name);
      CAPTURE(name);
      for (const std::string& text : {std::string(n, 'a'), std::string(n, ' '), std::string(n, '\n'), cjk, marks}) {
        CHECK(tokenizer.encode(text, false).size() <= text.size() + 1);
      }
    }
  }

  TEST_CASE("a public model's two tokenizers agree on text without runs of spaces") {
    const std::string folder = SQUEEZE_SOURCE_DIR "/../shared/data/stories260K/";
    if (!std::filesystem::exists(folder)) {
      MESSAGE("skipped: no " << folder);
      return;
    }
    const Tokenizer from_json = Tokenizer::from_json(read_file(folder + "tokenizer.json"), "tokenizer.json");
    const Tokenizer from_model =
        Tokenizer::from_sentencepiece(read_file(folder + "tokenizer.model"), "tokenizer.model", true);
    for (const char* text : {"Once upon a time", "Lily and Ben don't like\nthe 12 dogs\u2019 \u20AC\U0001F44D."}) {
      CHECK(from_json.encode(text, true) == from_model.encode(text, true));
    }
  }
}
