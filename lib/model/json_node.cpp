// Checked access to JSON values.
#include "lib/model/json_node.hpp"

#include "lib/core/utf8.hpp"

namespace squeeze {

std::string JsonNode::where() const { return place_.empty() ? *source_ : fmt::format("{}: {}", *source_, place_); }

void JsonNode::expect(bool ok, const char* what) const {
  if (!ok) fail("{}: expected {}, found {}", where(), what, value_->type_name());
}

JsonNode JsonNode::member(const char* name) const {
  expect(value_->is_object(), "an object");
  const auto found = value_->find(name);
  if (found == value_->end()) fail("{}: expected a member '{}', found none", where(), name);
  return {*found, *source_, place_.empty() ? name : place_ + "." + name};
}

bool JsonNode::has(const char* name) const {
  expect(value_->is_object(), "an object");
  const auto found = value_->find(name);
  return found != value_->end() && !found->is_null();
}

std::vector<JsonNode> JsonNode::elements() const {
  expect(value_->is_array(), "an array");
  std::vector<JsonNode> nodes;
  nodes.reserve(value_->size());
  for (const auto& element : *value_) {
    nodes.emplace_back(element, *source_, fmt::format("{}[{}]", place_, nodes.size()));
  }
  return nodes;
}

const std::string& JsonNode::string() const {
  expect(value_->is_string(), "a string");
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  expect(value_->is_boolean(), "true or false");
  return value_->get<bool>();
}

int64_t JsonNode::integer(int64_t low, int64_t high) const {
  expect(value_->is_number_integer(), "a whole number");
  const bool huge = value_->is_number_unsigned() && value_->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = huge ? INT64_MAX : value_->get<int64_t>();
  if (number < low || number > high) {
    fail("{}: expected a number between {} and {}, found {}", where(), low, high, value_->dump());
  }
  return number;
}

char32_t JsonNode::character() const {
  const std::string& text = string();
  size_t offset = 0;
  const char32_t code_point = text.empty() ? 0 : next_code_point(text, offset);
  if (text.empty() || offset != text.size()) fail("{}: expected one character, found '{}'", where(), text);
  return code_point;
}

bool JsonNode::boolean(const char* name, bool otherwise) const {
  return has(name) ? member(name).boolean() : otherwise;
}

std::string JsonNode::string(const char* name, const std::string& otherwise) const {
  return has(name) ? member(name).string() : otherwise;
}

}  // namespace squeeze
