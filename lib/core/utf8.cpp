// UTF-8 validation and replacement by the table of well-formed byte sequences.
#include "lib/core/utf8.hpp"

#include <cstdint>
#include <cstring>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// What may follow a lead byte: the range of the second byte, and the length of the sequence (0: never a lead byte).
struct Lead {
  unsigned char low, high;
  size_t length;
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {0, 0, 1};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {0x80, 0xBF, 2};
  if (byte == 0xE0) return {0xA0, 0xBF, 3};
  if (byte == 0xED) return {0x80, 0x9F, 3};
  if (byte < 0xF0) return {0x80, 0xBF, 3};
  if (byte == 0xF0) return {0x90, 0xBF, 4};
  if (byte < 0xF4) return {0x80, 0xBF, 4};
  if (byte == 0xF4) return {0x80, 0x8F, 4};
  return {0, 0, 0};
}

struct Sequence {
  size_t n_bytes;  // at least 1
  bool valid;
};

// The longest start of `text` (not empty) that is one code point, or that is the maximal invalid part.
Sequence sequence_at(std::string_view text) {
  const Lead lead = lead_of(static_cast<unsigned char>(text[0]));
  if (lead.length <= 1) return {1, lead.length == 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {i, false};
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool continues = i == 1 ? byte >= lead.low && byte <= lead.high : (byte & 0xC0) == 0x80;
    if (!continues) return {i, false};
  }
  return {lead.length, true};
}

bool is_ascii_block(const char* bytes) {
  uint64_t block;
  std::memcpy(&block, bytes, sizeof block);
  return (block & 0x8080808080808080u) == 0;
}

}  // namespace

std::optional<size_t> first_invalid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    if (i + 8 <= text.size() && is_ascii_block(text.data() + i)) {
      i += 8;
      continue;
    }
    const Sequence sequence = sequence_at(text.substr(i));
    if (!sequence.valid) return i;
    i += sequence.n_bytes;
  }
  return std::nullopt;
}

void check_utf8(std::string_view text, const std::string& source) {
  if (const auto offset = first_invalid_utf8(text)) {
    fail("{}: expected UTF-8 text, found an invalid byte 0x{:02x} at offset {}; convert it to UTF-8", source,
         static_cast<unsigned char>(text[*offset]), *offset);
  }
}

std::string to_valid_utf8(std::string_view bytes) {
  if (!first_invalid_utf8(bytes)) return std::string(bytes);
  std::string text;
  for (size_t i = 0; i < bytes.size();) {
    const Sequence sequence = sequence_at(bytes.substr(i));
    if (sequence.valid) {
      text.append(bytes.substr(i, sequence.n_bytes));
    } else {
      append_utf8(text, 0xFFFD);
    }
    i += sequence.n_bytes;
  }
  return text;
}

char32_t next_code_point(std::string_view text, size_t& offset) {
  const size_t length = utf8_length(text[offset]);
  const auto lead = static_cast<unsigned char>(text[offset]);
  char32_t code_point = length == 1 ? lead : lead & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    code_point = (code_point << 6) | (static_cast<unsigned char>(text[offset + i]) & 0x3Fu);
  }
  offset += length;
  return code_point;
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto put = [&text](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) return put(code_point);
  if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
  } else {
    if (code_point < 0x10000) {
      put(0xE0 | (code_point >> 12));
    } else {
      put(0xF0 | (code_point >> 18));
      put(0x80 | ((code_point >> 12) & 0x3F));
    }
    put(0x80 | ((code_point >> 6) & 0x3F));
  }
  put(0x80 | (code_point & 0x3F));
}

}  // namespace squeeze
