// What the two kinds of tokenizer (tokenizer.json, SentencePiece) have to offer behind Tokenizer.
#pragma once

#include "lib/model/tokenizer.hpp"

namespace squeeze {

struct Tokenizer::Impl {
  virtual ~Impl() = default;
  // `text` is valid UTF-8; nothing is added around it.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  virtual std::string decode(std::span<const int32_t> tokens, bool skip_special) const = 0;
  virtual int32_t vocab_size() const = 0;
  virtual std::optional<int32_t> token_id(std::string_view token) const = 0;
  virtual bool is_special(int32_t token) const = 0;

  std::vector<int32_t> prefix, suffix;  // what encode(add_special) puts around a text
};

}  // namespace squeeze
