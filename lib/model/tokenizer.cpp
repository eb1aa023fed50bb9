// The tokenizer's public face.
#include "lib/model/tokenizer.hpp"

#include "lib/core/utf8.hpp"
#include "lib/model/tokenizer_impl.hpp"

namespace squeeze {

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  check_utf8(text, "text to tokenize");
  std::vector<int32_t> ids = impl_->encode(text);
  if (add_special) {
    ids.insert(ids.begin(), impl_->prefix.begin(), impl_->prefix.end());
    ids.insert(ids.end(), impl_->suffix.begin(), impl_->suffix.end());
  }
  return ids;
}

std::vector<int32_t> Tokenizer::encode_context(std::string_view text) const {
  std::vector<int32_t> ids = encode(text, false);
  ids.insert(ids.begin(), impl_->prefix.begin(), impl_->prefix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> tokens, bool skip_special) const {
  return impl_->decode(tokens, skip_special);
}

int32_t Tokenizer::vocab_size() const { return impl_->vocab_size(); }

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const { return impl_->token_id(token); }

bool Tokenizer::is_special(int32_t token) const { return impl_->is_special(token); }

}  // namespace squeeze
