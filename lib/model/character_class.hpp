// Classes of Unicode code points, and the normalization forms.
#pragma once

#include <string>
#include <string_view>

namespace squeeze {

bool is_white_space(char32_t code_point);     // Unicode property White_Space
bool is_word_character(char32_t code_point);  // alphabetic, mark, decimal digit, connector or joiner (UTS 18, \w)
bool is_numeric(char32_t code_point);         // categories Nd, Nl, No
std::string to_lower(std::string_view text);  // code point by code point, without context

size_t white_space_prefix(std::string_view text);  // bytes of white space at the start of `text`
size_t white_space_suffix(std::string_view text);  // and at its end

enum class NormalForm { nfc, nfd, nfkc, nfkd };
// Time n log n at worst, also for long runs of combining marks. `text` is valid UTF-8.
std::string normalize(std::string_view text, NormalForm form);

}  // namespace squeeze
