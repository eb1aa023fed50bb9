// Typed, checked access to the fields of a JSON object, with errors that name the file and the field.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace squeeze {

// Parses one JSON object. Throws on a syntax error, invalid UTF-8, a repeated key or more than 32 levels of nesting.
nlohmann::json parse_json_object(std::string_view text, const std::string& source);

// Borrows the object. A field that is null counts as absent. Every getter throws if the type or the range is wrong.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string source) : object_(object), source_(std::move(source)) {}

  const std::string& source() const { return source_; }
  const nlohmann::json* find(const char* name) const;  // null if absent
  bool has(const char* name) const { return find(name) != nullptr; }

  int64_t integer(const char* name, int64_t min, int64_t max) const;
  int64_t integer_or(const char* name, int64_t fallback, int64_t min, int64_t max) const;
  double number_or(const char* name, double fallback) const;  // finite
  bool flag_or(const char* name, bool fallback) const;
  std::string text_or(const char* name, const std::string& fallback) const;
  JsonFields object(const char* name) const;  // throws if absent

 private:
  const nlohmann::json& object_;
  std::string source_;
};

}  // namespace squeeze
