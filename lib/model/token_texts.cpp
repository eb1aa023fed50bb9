// Decodes character by character, each behind the one before it, since decoders treat the first token of a text
// differently.
#include "lib/model/token_texts.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace squeeze {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD: the bytes so far are no whole character
constexpr size_t kMaxTokensOfCharacter = 4;                // UTF-8 has at most 4 bytes

}  // namespace

std::vector<std::string> token_texts(const Tokenizer& tokenizer, std::span<const int32_t> tokens) {
  std::vector<std::string> texts(tokens.size());
  size_t before = 0;  // first token of the piece before
  for (size_t begin = 0; begin < tokens.size();) {
    const std::string known = tokenizer.decode(tokens.subspan(before, begin - before), false);
    size_t end = begin;
    std::string text;
    do {
      text = tokenizer.decode(tokens.subspan(before, ++end - before), false);
    } while (text.ends_with(kReplacement) && end < std::min(tokens.size(), begin + kMaxTokensOfCharacter));
    texts[end - 1] = text.substr(std::min(known.size(), text.size()));
    before = std::exchange(begin, end);
  }
  return texts;
}

}  // namespace squeeze
