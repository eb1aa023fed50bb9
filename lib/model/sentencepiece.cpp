// SentencePiece models (tokenizer.model), with the conventions of the Llama tokenizers. The only file that sees the
// library.
#include <sentencepiece_processor.h>

#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"
#include "lib/model/added_tokens.hpp"
#include "lib/model/token_decoder.hpp"
#include "lib/model/tokenizer_impl.hpp"

namespace squeeze {
namespace {

using sentencepiece::SentencePieceProcessor;

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (size_t mark; (mark = piece.find(kSpaceMark)) != piece.npos; piece.remove_prefix(mark + kSpaceMark.size())) {
    text.append(piece.substr(0, mark)).push_back(' ');
  }
  return text.append(piece);
}

class SentencePieceTokenizer : public Tokenizer::Impl {
 public:
  SentencePieceTokenizer(std::string_view model, const std::string& source, bool add_bos);

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> tokens, bool skip_special) const override;
  int32_t vocab_size() const override { return processor_.GetPieceSize(); }
  std::optional<int32_t> token_id(std::string_view token) const override;
  bool is_special(int32_t token) const override {
    return exists(token) && (processor_.IsControl(token) || processor_.IsUnknown(token));
  }

 private:
  bool exists(int32_t token) const { return token >= 0 && token < processor_.GetPieceSize(); }

  SentencePieceProcessor processor_;
  AddedTokenFinder special_tokens_;  // "<s>" in a text is the token, as transformers does it
  std::string source_;
};

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view model, const std::string& source, bool add_bos)
    : source_(source) {
  const auto status = processor_.LoadFromSerializedProto(model);
  if (!status.ok()) fail("{}: expected a SentencePiece model, found something else ({})", source, status.ToString());
  std::vector<AddedToken> special;
  for (int32_t id = 0; id < vocab_size(); ++id) {
    if (is_special(id)) special.push_back({.content = processor_.IdToPiece(id), .id = id, .special = true});
  }
  special_tokens_ = AddedTokenFinder(std::move(special));
  if (!add_bos) return;
  if (!exists(processor_.bos_id())) fail("{}: expected a BOS token, found none; encode without it", source);
  prefix = {processor_.bos_id()};
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> ids;
  special_tokens_.split(
      text,
      [&](size_t begin, size_t end) {
        std::vector<int> part;
        const auto status = processor_.Encode(text.substr(begin, end - begin), &part);
        if (!status.ok()) fail("{}: could not encode bytes {} to {}: {}", source_, begin, end, status.ToString());
        ids.insert(ids.end(), part.begin(), part.end());
      },
      [&](int32_t id) { ids.push_back(id); });
  return ids;
}

// By pieces, not by the library's Decode, which drops control tokens and the space of every stretch between them.
std::string SentencePieceTokenizer::decode(std::span<const int32_t> tokens, bool skip_special) const {
  std::vector<std::string> pieces;
  for (const int32_t id : tokens) {
    if (!exists(id) || (skip_special && is_special(id))) continue;
    const std::string& piece = processor_.IdToPiece(id);
    pieces.push_back(processor_.IsByte(id) || is_special(id) ? piece : with_spaces(piece));
  }
  join_fallback_bytes(pieces);
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  if (text.starts_with(' ')) text.erase(0, 1);  // the space that encoding puts in front
  return text;
}

std::optional<int32_t> SentencePieceTokenizer::token_id(std::string_view token) const {
  const int32_t id = processor_.PieceToId(token);
  if (exists(id) && processor_.IdToPiece(id) == token) return id;
  return std::nullopt;
}

}  // namespace

Tokenizer Tokenizer::from_sentencepiece(std::string_view model, const std::string& source, bool add_bos) {
  return Tokenizer(std::make_unique<SentencePieceTokenizer>(model, source, add_bos));
}

}  // namespace squeeze
