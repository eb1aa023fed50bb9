// A value inside a parsed JSON file that knows its place, so that every wrong type or value is reported with it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lib/core/error.hpp"

namespace squeeze {

class JsonNode {
 public:
  // `source` and `value` must outlive the node. `place` is a path like "model.vocab"; empty for the root.
  JsonNode(const nlohmann::json& value, const std::string& source, std::string place = "")
      : value_(&value), source_(&source), place_(std::move(place)) {}

  const nlohmann::json& value() const { return *value_; }
  const std::string& source() const { return *source_; }
  std::string where() const;  // "FILE: PLACE"

  // A member of this object. `member` throws if it is absent; `has` is false if it is absent or null.
  JsonNode member(const char* name) const;
  bool has(const char* name) const;
  std::vector<JsonNode> elements() const;  // of this array

  const std::string& string() const;
  bool boolean() const;
  int64_t integer(int64_t low, int64_t high) const;  // throws outside [low, high]
  char32_t character() const;                        // a string of one code point

  // Of a member, or `otherwise` if it is absent or null.
  bool boolean(const char* name, bool otherwise) const;
  std::string string(const char* name, const std::string& otherwise) const;

 private:
  void expect(bool ok, const char* what) const;

  const nlohmann::json* value_;
  const std::string* source_;
  std::string place_;
};

}  // namespace squeeze
