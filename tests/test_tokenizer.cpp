// Tokenizers against the tokenizers and sentencepiece libraries (tests/golden/tokenizers), laws, and bad files.
#include "lib/model/tokenizer.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"

using namespace squeeze;
using nlohmann::json;

namespace {

const std::string kFolder = SQUEEZE_SOURCE_DIR "/tests/golden/tokenizers/";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path);
  return {std::istreambuf_iterator<char>(file), {}};
}

json read_json(const std::string& name) { return json::parse(read_file(kFolder + name)); }

Tokenizer patched(const std::string& name, const json& patch) {
  json document = read_json(name);
  document.merge_patch(patch);
  return Tokenizer::from_json(document.dump(), name);
}

Tokenizer sentencepiece(bool add_bos) {
  return Tokenizer::from_sentencepiece(read_file(kFolder + "sentencepiece.model"), "sentencepiece.model", add_bos);
}

using Ids = std::vector<int32_t>;

// The message that from_json fails with after a change to a golden tokenizer.
std::string refusal(const std::string& name, const json& patch) {
  try {
    (void)patched(name, patch);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// Bytes without a pattern, but the same ones each time.
std::string random_text(uint32_t seed, size_t n_code_points) {
  std::string text;
  for (size_t i = 0; i < n_code_points; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const uint32_t c = (seed >> 8) % (i % 3 == 0 ? 0x10FFFFu : i % 3 == 1 ? 0x3000u : 0x80u);
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    if (c < 0x80) {
      text += static_cast<char>(c);
    } else if (c < 0x800) {
      text += {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
    } else if (c < 0x10000) {
      text += {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
               static_cast<char>(0x80 | (c & 63))};
    } else {
      text += {static_cast<char>(0xF0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 63)),
               static_cast<char>(0x80 | ((c >> 6) & 63)), static_cast<char>(0x80 | (c & 63))};
    }
  }
  return text;
}

}  // namespace

TEST_SUITE("tokenizer") {
  TEST_CASE("ids and texts equal those of the tokenizers library") {
    for (const json& kind : read_json("cases.json")["tokenizers"]) {
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
    for (const json& expected : read_json("cases.json")["sentencepiece"]) {
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
    const Tokenizer tokenizer = patched("metaspace.json", {});  // <s> text </s>
    const Ids all = tokenizer.encode("the keys", true);
    CHECK(all.back() == *tokenizer.token_id("</s>"));
    CHECK(tokenizer.encode_context("the keys") == Ids(all.begin(), all.end() - 1));
    CHECK(tokenizer.is_special(all.front()));
    CHECK(tokenizer.encode_context("") == Ids{*tokenizer.token_id("<s>")});
  }

  TEST_CASE("byte-level and byte-fallback tokenizers give any text back") {
    for (const char* name : {"gpt2.json", "llama3.json", "llama2.json"}) {
      CAPTURE(name);
      const Tokenizer tokenizer = patched(name, {});
      for (uint32_t seed = 0; seed < 200; ++seed) {
        const std::string text = random_text(seed, seed);
        CHECK(tokenizer.decode(tokenizer.encode(text, true), true) == text);
      }
    }
  }

  TEST_CASE("tokens that are cut out of a character decode to U+FFFD, unknown ids to nothing") {
    const Tokenizer bytes = patched("gpt2.json", {});
    const Ids euro = bytes.encode("\u20AC", false);
    REQUIRE(euro.size() == 3);
    CHECK(bytes.decode(Ids{euro[0], euro[1]}, true) == "\uFFFD");
    CHECK(bytes.decode(Ids{euro[1], euro[2]}, true) == "\uFFFD\uFFFD");
    const Tokenizer fallback = patched("llama2.json", {});
    const Ids kept = {*fallback.token_id("<0xE2>"), *fallback.token_id("<0x82>")};
    CHECK(fallback.decode(kept, true) == "\uFFFD\uFFFD");
    CHECK(bytes.decode(Ids{-1, bytes.vocab_size(), INT32_MAX, INT32_MIN}, false) == "");
    CHECK(sentencepiece(false).decode(Ids{-1, 700, INT32_MAX}, false) == "");
  }

  TEST_CASE("invalid UTF-8 is refused with its offset") {
    const Tokenizer tokenizers[] = {patched("gpt2.json", {}), patched("llama2.json", {}), sentencepiece(true)};
    for (const Tokenizer& tokenizer : tokenizers) {
      CHECK_THROWS_WITH_AS((void)tokenizer.encode("abc\xC3", false), doctest::Contains("offset 3"), Error);
      CHECK_THROWS_AS((void)tokenizer.encode_context("\xED\xA0\x80"), Error);
    }
  }

  // A quadratic encoder would take hours here.
  TEST_CASE("a megabyte without a space, or of one character, is encoded in linear time") {
    const size_t n = 1u << 20;
    std::string cjk;
    for (uint32_t i = 0; cjk.size() < n; ++i) {
      const uint32_t c = 0x4E00 + i * 7919 % 0x5000;
      cjk += {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 63)),
              static_cast<char>(0x80 | (c & 63))};
    }
    std::string marks;  // in the wrong canonical order
    while (marks.size() < n) marks += "\u0301\u0323";
    for (const char* name : {"llama3.json", "qwen2.json", "llama2.json", "metaspace.json"}) {
      const Tokenizer tokenizer = patched(name, {});
      CAPTURE(name);
      for (const std::string& text : {std::string(n, 'a'), std::string(n, ' '), std::string(n, '\n'), cjk, marks}) {
        CHECK(tokenizer.encode(text, false).size() <= text.size() + 1);
      }
    }
  }

  TEST_CASE("what is not supported is refused by name") {
    const auto refused = [](const json& patch, const std::string& named) {
      const std::string message = refusal("gpt2.json", patch);
      CHECK_MESSAGE(contains(message, named), message);
      CHECK_MESSAGE(contains(message, "gpt2.json"), message);
    };
    refused({{"model", {{"type", "Unigram"}}}}, "'Unigram'");
    refused({{"model", {{"type", "WordPiece"}}}}, "tokenizer.model");
    refused({{"model", {{"dropout", 0.1}}}}, "dropout");
    refused({{"model", {{"end_of_word_suffix", "</w>"}}}}, "end_of_word_suffix");
    refused({{"model", {{"continuing_subword_prefix", "##"}}}}, "continuing_subword_prefix");
    refused({{"normalizer", {{"type", "Precompiled"}}}}, "'Precompiled'");
    refused({{"pre_tokenizer", {{"type", "UnicodeScripts"}}}}, "'UnicodeScripts'");
    refused({{"decoder", {{"type", "CTC"}}}}, "'CTC'");
    refused({{"post_processor", {{"type", "BertProcessing"}}}}, "'BertProcessing'");
    refused({{"version", "2.0"}}, "2.0");
    for (const char* pattern : {"[a&&b]", "[a[b]]", "\\h", "\\b", "(?<name>a)", "(?m:.)", "a{2}+", "(*UCP)a", "\\"}) {
      refused({{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", ""}}}},
              "unsupported construct");
    }
    refused({{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "(a"}}}, {"content", ""}}}},
            "bad regular expression");
    refused({{"normalizer", {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}}}}, "empty");
  }

  TEST_CASE("a regular expression that explodes gives up with an error") {
    const Tokenizer tokenizer = patched(
        "gpt2.json", {{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "(a|a)*b"}}}, {"content", ""}}}});
    CHECK_THROWS_WITH_AS((void)tokenizer.encode(std::string(100, 'a'), false), doctest::Contains("gave up"), Error);
  }

  TEST_CASE("wrong values in tokenizer.json are named") {
    const auto refused = [](const json& patch, const std::string& named) {
      const std::string message = refusal("gpt2.json", patch);
      CHECK_MESSAGE(contains(message, named), message);
    };
    const auto with_id = [](const json& id) { return json{{"model", {{"vocab", {{"new", id}}}}}}; };
    refused(with_id(-1), "between 0 and");
    refused(with_id(uint64_t{1} << 40), "between 0 and");
    refused(with_id(UINT64_MAX), "between 0 and");
    refused(with_id(2147483647), "between 0 and");
    refused(with_id(1.5), "a whole number");
    refused(with_id("7"), "a whole number");
    refused(with_id(3), "different ids");
    const auto with_merge = [](const json& merge) { return json{{"model", {{"merges", {merge}}}}}; };
    refused(with_merge("no such"), "'no'");
    refused(with_merge({"a", "zzz"}), "'zzz'");
    refused(with_merge({"q", "q"}), "'qq'");
    refused(with_merge("a b c"), "model.merges[0]");
    refused(with_merge({"a"}), "model.merges[0]");
    refused(with_merge(7), "model.merges[0]");
    const auto with_added = [](const json& token) { return json{{"added_tokens", {token}}}; };
    refused(with_added({{"content", "<x>"}, {"id", 5}}), "expected id 600");
    refused(with_added({{"content", "a"}, {"id", 5}}), "for added token 'a'");
    refused(with_added({{"content", "<x>"}}), "'id'");
    refused(with_added({{"content", 7}, {"id", 600}}), "a string");
    const auto with_template = [](const json& single, const json& ids) {
      return json{{"post_processor",
                   {{"type", "TemplateProcessing"}, {"single", single}, {"special_tokens", {{"B", {{"ids", ids}}}}}}}};
    };
    const json text = {{"Sequence", {{"id", "A"}}}}, special = {{"SpecialToken", {{"id", "B"}}}};
    refused(with_template({special, text}, {100000}), "id 100000");
    refused(with_template({special}, {1}), "0 times");
    refused(with_template({text, text}, {1}), "2 times");
    refused(with_template({{{"Sequence", {{"id", "B"}}}}}, {1}), "'B'");
    CHECK(refusal("gpt2.json", with_template({special, text}, {1})) == "accepted");
  }

  TEST_CASE("files cut short, and JSON of the wrong shape, are one error") {
    const std::string whole = read_file(kFolder + "llama2.json");
    for (size_t size = 0; size < whole.size() - 2; size += whole.size() / 97) {
      CHECK_THROWS_AS((void)Tokenizer::from_json(std::string_view(whole).substr(0, size), "cut.json"), Error);
    }
    for (const std::string text : {"", "null", "[]", "7", "\"x\"", "{}", "{\"model\":[]}",
                                   "{\"model\":{\"merges\":[]}}", "\xFF", "{\"a\":\"\\ud800\"}"}) {
      CHECK_THROWS_AS((void)Tokenizer::from_json(text, "odd.json"), Error);
    }
    const std::string deep = std::string(1000000, '[') + std::string(1000000, ']');
    CHECK_THROWS_WITH_AS((void)Tokenizer::from_json(deep, "deep.json"), doctest::Contains("nested"), Error);
    CHECK_THROWS_AS((void)Tokenizer::from_json(std::string(1000000, '{'), "deep.json"), Error);
  }

  // Replaces each value of a file, one after the other, by values of other types.
  TEST_CASE("every value of a wrong type is an error or harmless") {
    json document = read_json("llama2.json");
    document["model"]["vocab"] = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"a", 3}, {"b", 4}, {"ab", 5}};
    document["model"]["merges"] = {{"a", "b"}};
    const json flat = document.flatten();
    size_t n_refused = 0;
    for (const auto& [place, value] : flat.items()) {
      for (const json& other : {json(), json(true), json(-1), json(1e300), json("x"), json::array(), json::object()}) {
        json changed = document;
        changed[json::json_pointer(place)] = other;
        try {
          (void)Tokenizer::from_json(changed.dump(), "changed.json").encode("ab <s> c", true);
        } catch (const Error&) {
          ++n_refused;
        }
      }
    }
    CHECK(n_refused > flat.size());
  }

  TEST_CASE("SentencePiece models that are cut or damaged are one error, or still encode") {
    const std::string whole = read_file(kFolder + "sentencepiece.model");
    for (size_t size = 0; size < whole.size(); size += 211) {
      try {
        (void)Tokenizer::from_sentencepiece(std::string_view(whole).substr(0, size), "cut.model", true)
            .encode("a b", true);
      } catch (const Error&) {
      }
    }
    CHECK_THROWS_AS((void)Tokenizer::from_sentencepiece("", "empty.model", true), Error);
    CHECK_THROWS_AS((void)Tokenizer::from_sentencepiece(std::string(4096, 'x'), "text.model", true), Error);
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
