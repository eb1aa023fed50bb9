// Tests of token_texts: together the pieces are the text, and a character of several tokens is whole.
#include "lib/model/token_texts.hpp"

#include "lib/core/utf8.hpp"
#include "tests/golden_tokenizers.hpp"

namespace squeeze {
namespace {

void check_pieces(const Tokenizer& tokenizer, const std::string& text) {
  const std::vector<int32_t> tokens = tokenizer.encode(text, false);
  const std::vector<std::string> pieces = token_texts(tokenizer, tokens);
  REQUIRE(pieces.size() == tokens.size());
  std::string joined;
  for (const std::string& piece : pieces) {
    CHECK_FALSE(first_invalid_utf8(piece));
    joined += piece;
  }
  CHECK(joined == tokenizer.decode(tokens, false));
}

}  // namespace

TEST_SUITE("token_texts") {
  TEST_CASE("the pieces of every tokenizer join to the decoded text") {
    const std::string text =
        "The  valve\n\topens at 12:30; Ünïcödé, 漢字, 😀👩‍👩‍👧 and\u00a0more.  ";
    for (const char* name : {"gpt2.json", "llama2.json", "llama3.json", "metaspace.json", "qwen2.json"}) {
      CAPTURE(name);
      check_pieces(patched(name), text);
    }
    check_pieces(sentencepiece(true), text);
    check_pieces(sentencepiece(false), "");
  }

  TEST_CASE("a character of several tokens belongs to the last of them") {
    const Tokenizer tokenizer = patched("gpt2.json");
    const std::vector<int32_t> tokens = tokenizer.encode("😀", false);
    REQUIRE(tokens.size() > 1);
    const std::vector<std::string> pieces = token_texts(tokenizer, tokens);
    CHECK(pieces.back() == "😀");
    CHECK(pieces.front().empty());
  }
}

}  // namespace squeeze
