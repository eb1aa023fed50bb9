// The alphabet of byte-level BPE (GPT-2): every byte is written as one printable character.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace squeeze {

// Printable Latin-1 stands for itself; the other 68 bytes, in order, are U+0100 and up.
constexpr std::array<char32_t, 256> byte_alphabet() {
  std::array<char32_t, 256> characters{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = printable ? byte : next++;
  }
  return characters;
}

// The byte that a character of the alphabet stands for.
constexpr std::optional<char> alphabet_byte(char32_t character) {
  constexpr auto bytes = [] {
    std::array<int16_t, 0x144> table{};
    table.fill(-1);
    for (int byte = 0; byte < 256; ++byte)
      table[byte_alphabet()[static_cast<size_t>(byte)]] = static_cast<int16_t>(byte);
    return table;
  }();
  if (character >= bytes.size() || bytes[character] < 0) return std::nullopt;
  return static_cast<char>(bytes[character]);
}

}  // namespace squeeze
