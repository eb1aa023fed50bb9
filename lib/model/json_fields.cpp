// Checked JSON parsing and field access.
#include "lib/model/json_fields.hpp"

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;

// Stops the parser at what nlohmann::json accepts silently: repeated keys and any depth.
class StrictCallback {
 public:
  explicit StrictCallback(const std::string& source) : source_(source) {}

  bool operator()(int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth) fail("{}: JSON is nested deeper than {} levels", source_, kMaxDepth);
    if (event == json::parse_event_t::object_start) keys_.emplace_back();
    if (event == json::parse_event_t::object_end) keys_.pop_back();
    if (event == json::parse_event_t::key && !keys_.back().insert(parsed.get<std::string>()).second) {
      fail("{}: '{}' appears twice in one JSON object", source_, parsed.get<std::string>());
    }
    return true;
  }

 private:
  const std::string& source_;
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

json parse_json_object(std::string_view text, const std::string& source) {
  json parsed;
  try {
    StrictCallback strict(source);
    parsed = json::parse(text.begin(), text.end(), std::ref(strict));
  } catch (const json::exception& e) {
    fail("{}: not valid JSON: {}", source, e.what());
  }
  if (!parsed.is_object()) fail("{}: expected a JSON object, found {}", source, parsed.type_name());
  return parsed;
}

const json* JsonFields::find(const char* name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

int64_t JsonFields::integer(const char* name, int64_t min, int64_t max) const {
  const json* field = find(name);
  if (!field) fail("{}: '{}' is missing", source_, name);
  const bool fits = field->is_number_integer() &&
                    (!field->is_number_unsigned() || field->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
  if (!fits || field->get<int64_t>() < min || field->get<int64_t>() > max) {
    fail("{}: '{}' must be an integer from {} to {}, found {}", source_, name, min, max, field->dump());
  }
  return field->get<int64_t>();
}

int64_t JsonFields::integer_or(const char* name, int64_t fallback, int64_t min, int64_t max) const {
  return has(name) ? integer(name, min, max) : fallback;
}

double JsonFields::number_or(const char* name, double fallback) const {
  const json* field = find(name);
  if (!field) return fallback;
  if (!field->is_number() || !std::isfinite(field->get<double>())) {
    fail("{}: '{}' must be a finite number, found {}", source_, name, field->dump());
  }
  return field->get<double>();
}

bool JsonFields::flag_or(const char* name, bool fallback) const {
  const json* field = find(name);
  if (!field) return fallback;
  if (!field->is_boolean()) fail("{}: '{}' must be true or false, found {}", source_, name, field->dump());
  return field->get<bool>();
}

std::string JsonFields::text_or(const char* name, const std::string& fallback) const {
  const json* field = find(name);
  if (!field) return fallback;
  if (!field->is_string()) fail("{}: '{}' must be a string, found {}", source_, name, field->dump());
  return field->get<std::string>();
}

JsonFields JsonFields::object(const char* name) const {
  const json* field = find(name);
  if (!field || !field->is_object()) fail("{}: '{}' must be an object", source_, name);
  return {*field, source_ + ": " + name};
}

}  // namespace squeeze
