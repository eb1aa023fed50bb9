// The "pattern" member of tokenizer.json: {"String": text} or {"Regex": expression}.
#pragma once

#include "lib/model/json_node.hpp"
#include "lib/model/regex.hpp"

namespace squeeze {

inline Regex parse_pattern(const JsonNode& owner) {
  const JsonNode pattern = owner.member("pattern");
  if (pattern.has("String")) return Regex::literal(pattern.member("String").string(), pattern.where());
  return Regex(pattern.member("Regex").string(), pattern.where());
}

}  // namespace squeeze
