// Tokenizer files that are damaged, hostile, or ask for what is not supported: one error each, which names it.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"
#include "tests/golden_tokenizers.hpp"

using namespace squeeze;
using nlohmann::json;

namespace {

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

}  // namespace

TEST_SUITE("tokenizer_files") {
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
    for (const char* pattern : {"[a&&b]", "[a[b]]", "\\h", "\\b", "(?<name>a)", "(?m:.)", "a{2}+", "a{2}?", "a{,2}",
                                "a(?i)b|c", "(*UCP)a", "\\"}) {
      refused({{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", ""}}}},
              "unsupported construct");
    }
    refused({{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "(a"}}}, {"content", ""}}}},
            "bad regular expression");
    refused({{"normalizer", {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", ""}}}}, "empty");
  }

  TEST_CASE("a regular expression that explodes gives up with an error") {
    const Tokenizer tokenizer = patched(
        "gpt2.json", {{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "(a|a)*[bc]"}}}, {"content", ""}}}});
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
    const auto with_merge = [](const json& merge) { return json{{"model", {{"merges", json::array({merge})}}}}; };
    refused(with_merge("nosuch a"), "'nosuch'");
    refused(with_merge(json::array({"a", "zzz"})), "'zzz'");
    refused(with_merge(json::array({"q", "q"})), "'qq'");
    refused(with_merge("a b c"), "model.merges[0]");
    refused(with_merge(json::array({"a"})), "model.merges[0]");
    refused(with_merge(7), "model.merges[0]");
    const auto with_added = [](const json& token) { return json{{"added_tokens", json::array({token})}}; };
    refused(with_added({{"content", "<x>"}, {"id", 5}}), "expected id 600");
    refused(with_added({{"content", "a"}, {"id", 5}}), "for added token 'a'");
    refused(with_added({{"content", "<x>"}}), "'id'");
    refused(with_added({{"content", 7}, {"id", 600}}), "a string");
    const auto with_template = [](const json& single, const json& ids) {
      return json{{"post_processor",
                   {{"type", "TemplateProcessing"},
                    {"single", single},
                    {"special_tokens", {{"B", {{"ids", json::array({ids})}}}}}}}};
    };
    const json text = {{"Sequence", {{"id", "A"}}}}, special = {{"SpecialToken", {{"id", "B"}}}};
    refused(with_template(json::array({special, text}), 100000), "id 100000");
    refused(with_template(json::array({special}), 1), "0 times");
    refused(with_template(json::array({text, text}), 1), "2 times");
    refused(with_template(json::array({json{{"Sequence", {{"id", "B"}}}}}), 1), "'B'");
    CHECK(refusal("gpt2.json", with_template(json::array({special, text}), 1)) == "accepted");
  }

  TEST_CASE("files cut short, and JSON of the wrong shape, are one error") {
    const std::string whole = read_file(kTokenizerFolder + "llama2.json");
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
    const std::string whole = read_file(kTokenizerFolder + "sentencepiece.model");
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
}
