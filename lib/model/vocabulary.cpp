// The vocabulary's two maps.
#include "lib/model/vocabulary.hpp"

#include "lib/core/error.hpp"

namespace squeeze {

void Vocabulary::add(const std::string& token, int32_t id, const std::string& source) {
  if (id < 0 || id > kMaxId) {
    fail("{}: expected token ids between 0 and {}, found {} for '{}'", source, kMaxId, id, token);
  }
  if (const std::string* other = token_of(id)) {
    fail("{}: expected different ids, found {} for both '{}' and '{}'", source, id, *other, token);
  }
  const auto [place, is_new] = ids_.emplace(token, id);
  if (!is_new) fail("{}: token '{}' is there twice, with ids {} and {}", source, token, place->second, id);
  if (id >= size()) tokens_.resize(static_cast<size_t>(id) + 1);
  tokens_[static_cast<size_t>(id)] = &place->first;
}

std::optional<int32_t> Vocabulary::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

const std::string* Vocabulary::token_of(int32_t id) const {
  return id >= 0 && id < size() ? tokens_[static_cast<size_t>(id)] : nullptr;
}

}  // namespace squeeze
