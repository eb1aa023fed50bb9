// Token strings and their ids, both ways.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace squeeze {

class Vocabulary {
 public:
  static constexpr int32_t kMaxId = (1 << 24) - 1;  // 16 million: far above any model, small enough to index by

  // 0 <= id <= kMaxId. Throws if the token or the id is already there; `source` names the place in errors.
  void add(const std::string& token, int32_t id, const std::string& source);

  std::optional<int32_t> id_of(std::string_view token) const;
  const std::string* token_of(int32_t id) const;  // null if no token has this id; valid as long as this
  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }  // largest id + 1
  size_t n_tokens() const { return ids_.size(); }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> tokens_;  // by id; point into ids_, whose nodes do not move
};

}  // namespace squeeze
