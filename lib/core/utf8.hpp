// UTF-8: validation, and stepping through code points of text that has been validated.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace squeeze {

// The offset of the first byte that is not part of valid UTF-8 (Unicode 15, table 3-7: no overlong forms, no
// surrogates, nothing above U+10FFFF); nothing if all is valid.
std::optional<size_t> first_invalid_utf8(std::string_view text);

// Throws with the byte offset if `text` is not valid UTF-8. `source` names it in the error.
void check_utf8(std::string_view text, const std::string& source);

// Every maximal invalid part becomes one U+FFFD, as in Unicode 15, section 3.9 (and Rust's from_utf8_lossy).
std::string to_valid_utf8(std::string_view bytes);

// The code point at `offset` of valid UTF-8; moves `offset` behind it.
char32_t next_code_point(std::string_view text, size_t& offset);

// The number of bytes of the code point that starts with `lead`.
constexpr size_t utf8_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

void append_utf8(std::string& text, char32_t code_point);

}  // namespace squeeze
