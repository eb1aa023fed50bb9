// Text to token ids and back: BPE as tokenizer.json defines it, or a SentencePiece model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace squeeze {

class Tokenizer {
 public:
  // Contents of tokenizer.json. `source` names the file in errors. Throws on anything unsupported, naming it.
  static Tokenizer from_json(std::string_view json, const std::string& source);
  // Contents of tokenizer.model (SentencePiece); BOS is added by encode when add_bos.
  static Tokenizer from_sentencepiece(std::string_view model, const std::string& source, bool add_bos);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Throws on invalid UTF-8, with the byte offset. add_special: what the template (or add_bos) adds around a text.
  std::vector<int32_t> encode(std::string_view text, bool add_special) const;
  // Only what the template puts in front (BOS): the start of a fixed context that prompts will follow.
  std::vector<int32_t> encode_context(std::string_view text) const;
  // Bytes that are not valid UTF-8 come out as U+FFFD, as transformers does.
  std::string decode(std::span<const int32_t> tokens, bool skip_special) const;

  int32_t vocab_size() const;  // largest id + 1
  std::optional<int32_t> token_id(std::string_view token) const;
  bool is_special(int32_t token) const;

  struct Impl;

 private:
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace squeeze
