// The "normalizer" of tokenizer.json: what happens to a text before it is cut into words.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace squeeze {

class JsonNode;

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing
  // Throws on a kind that is not supported, naming it.
  explicit Normalizer(const JsonNode& node);

  std::string apply(std::string_view text) const;

 private:
  void add(const JsonNode& node);

  std::vector<std::function<std::string(std::string)>> steps_;
};

}  // namespace squeeze
