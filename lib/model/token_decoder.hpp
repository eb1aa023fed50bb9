// The "decoder" of tokenizer.json: turns the strings of tokens back into text.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace squeeze {

class JsonNode;

class TokenDecoder {
 public:
  TokenDecoder() = default;  // without a decoder, tokens are joined by spaces
  // Throws on a kind that is not supported, naming it.
  explicit TokenDecoder(const JsonNode& node);

  std::string decode(std::vector<std::string> tokens) const;

 private:
  void add(const JsonNode& node);

  bool has_decoder_ = false;
  std::vector<std::function<void(std::vector<std::string>&)>> steps_;
};

// Byte-fallback tokens "<0x41>": the byte, or -1 for any other token.
int fallback_byte(const std::string& token);

// Replaces each run of byte-fallback tokens by its text, or by one U+FFFD per byte where that is not valid UTF-8.
void join_fallback_bytes(std::vector<std::string>& tokens);

}  // namespace squeeze
