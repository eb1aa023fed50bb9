// Unicode through utf8proc: the only file that sees it.
#include "lib/model/character_class.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"

namespace squeeze {
namespace {

utf8proc_category_t category_of(char32_t code_point) { return utf8proc_category(static_cast<int32_t>(code_point)); }

// The only characters with the property Other_Alphabetic that are no marks: circled and squared Latin letters.
bool is_enclosed_letter(char32_t c) {
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);
}

std::vector<int32_t> decomposed(std::string_view text, int options) {
  constexpr int kLongest = 32;  // the longest decomposition of one code point has 18
  std::vector<int32_t> out;
  out.reserve(text.size());
  int boundary = 0;
  for (size_t i = 0; i < text.size();) {
    const auto code_point = static_cast<int32_t>(next_code_point(text, i));
    const size_t size = out.size();
    out.resize(size + kLongest);
    const auto n = utf8proc_decompose_char(code_point, out.data() + size, kLongest,
                                           static_cast<utf8proc_option_t>(options), &boundary);
    if (n < 0 || n > kLongest) fail("could not normalize U+{:04X}: {}", code_point, utf8proc_errmsg(n));
    out.resize(size + static_cast<size_t>(n));
  }
  return out;
}

auto combining_class(int32_t code_point) { return utf8proc_get_property(code_point)->combining_class; }

// Canonical order. utf8proc's own is a bubble sort, which a long run of marks makes quadratic.
void order_marks(std::vector<int32_t>& code_points) {
  const auto is_mark = [](int32_t c) { return combining_class(c) != 0; };
  for (auto begin = code_points.begin(); begin != code_points.end();) {
    begin = std::find_if(begin, code_points.end(), is_mark);
    const auto end = std::find_if_not(begin, code_points.end(), is_mark);
    std::stable_sort(begin, end, [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

}  // namespace

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_word_character(char32_t c) {
  const auto category = category_of(c);
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC ||
         c == 0x200C || c == 0x200D || is_enclosed_letter(c);
}

bool is_numeric(char32_t c) {
  const auto category = category_of(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;
}

std::string to_lower(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char32_t code_point = next_code_point(text, i);
    append_utf8(lower,
                code_point == 0x130 ? U'i' : static_cast<char32_t>(utf8proc_tolower(static_cast<int32_t>(code_point))));
    if (code_point == 0x130) append_utf8(lower, 0x307);  // the only one that becomes two
  }
  return lower;
}

size_t white_space_prefix(std::string_view text) {
  size_t end = 0;
  for (size_t next = 0; next < text.size() && is_white_space(next_code_point(text, next));) end = next;
  return end;
}

size_t white_space_suffix(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t previous = begin - 1;
    while (previous > 0 && (static_cast<unsigned char>(text[previous]) & 0xC0) == 0x80) --previous;
    size_t offset = previous;
    if (!is_white_space(next_code_point(text, offset))) break;
    begin = previous;
  }
  return text.size() - begin;
}

std::string normalize(std::string_view text, NormalForm form) {
  if (is_ascii(text)) return std::string(text);
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const bool composed = form == NormalForm::nfc || form == NormalForm::nfkc;
  auto code_points = decomposed(text, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  order_marks(code_points);
  if (composed) {
    const auto n = utf8proc_normalize_utf32(code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
                                            static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    if (n < 0) fail("could not compose a text: {}", utf8proc_errmsg(n));
    code_points.resize(static_cast<size_t>(n));
  }
  std::string normalized;
  normalized.reserve(text.size());
  for (const int32_t code_point : code_points) append_utf8(normalized, static_cast<char32_t>(code_point));
  return normalized;
}

}  // namespace squeeze
