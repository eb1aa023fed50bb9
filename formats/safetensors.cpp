// Header checks and views of safetensors files.
#include "formats/safetensors.hpp"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"
#include "lib/model/json_fields.hpp"

namespace squeeze {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr size_t kMaxTensorRank = 16;

struct TypeSize {
  const char* dtype;
  uint64_t n_bytes;
};
constexpr TypeSize kTypes[] = {{"F64", 8},  {"F32", 4}, {"F16", 2},     {"BF16", 2},    {"I64", 8},    {"I32", 4},
                               {"I16", 2},  {"I8", 1},  {"U64", 8},     {"U32", 4},     {"U16", 2},    {"U8", 1},
                               {"BOOL", 1}, {"C64", 8}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}};

// Where an error is: "FILE: tensor 'NAME'".
struct Place {
  const std::string& path;
  const std::string& name;
  std::string str() const { return fmt::format("{}: tensor '{}'", path, name); }
};

uint64_t size_of_type(const Place& place, const std::string& dtype) {
  for (const TypeSize& type : kTypes) {
    if (dtype == type.dtype) return type.n_bytes;
  }
  fail("{}: unknown type '{}'", place.str(), dtype);
}

uint64_t read_unsigned(const Place& place, const json& value, const char* what) {
  if (!value.is_number_unsigned()) {
    fail("{}: {} must be a non-negative integer, found {}", place.str(), what, value.dump());
  }
  return value.get<uint64_t>();
}

const json& field(const Place& place, const json& object, const char* name, json::value_t type) {
  const auto found = object.find(name);
  if (found == object.end() || found->type() != type) fail("{}: '{}' is missing or malformed", place.str(), name);
  return *found;
}

std::vector<int64_t> parse_shape(const Place& place, const json& sizes) {
  if (sizes.size() > kMaxTensorRank) {
    fail("{}: expected at most {} dimensions, found {}", place.str(), kMaxTensorRank, sizes.size());
  }
  std::vector<int64_t> shape;
  for (const json& size : sizes) {
    const uint64_t n = read_unsigned(place, size, "a dimension");
    if (n > INT64_MAX) fail("{}: dimension {} is too large", place.str(), n);
    shape.push_back(static_cast<int64_t>(n));
  }
  return shape;
}

uint64_t expected_bytes(const Place& place, const std::vector<int64_t>& shape, uint64_t element_bytes) {
  uint64_t n = element_bytes;
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(n, static_cast<uint64_t>(size), &n)) fail("{}: its shape is too large", place.str());
  }
  return n;
}

Safetensors::Entry parse_entry(const Place& place, const json& object, std::string_view data) {
  if (!object.is_object()) fail("{}: expected an object, found {}", place.str(), object.type_name());
  Safetensors::Entry entry;
  entry.dtype = field(place, object, "dtype", json::value_t::string).get<std::string>();
  entry.shape = parse_shape(place, field(place, object, "shape", json::value_t::array));
  const json& offsets = field(place, object, "data_offsets", json::value_t::array);
  if (offsets.size() != 2) fail("{}: expected two data_offsets, found {}", place.str(), offsets.dump());
  const uint64_t begin = read_unsigned(place, offsets[0], "a data offset");
  const uint64_t end = read_unsigned(place, offsets[1], "a data offset");
  if (begin > end || end > data.size()) {
    fail("{}: data offsets [{}, {}) lie outside the {} bytes of data; the file is truncated or damaged", place.str(),
         begin, end, data.size());
  }
  const uint64_t element_bytes = size_of_type(place, entry.dtype);
  const uint64_t expected = expected_bytes(place, entry.shape, element_bytes);
  if (end - begin != expected) {
    fail("{}: its shape and type need {} bytes, its offsets span {}", place.str(), expected, end - begin);
  }
  entry.data = data.data() + begin;
  entry.n_bytes = expected;
  if (reinterpret_cast<uintptr_t>(entry.data) % element_bytes != 0) {
    fail("{}: its data is not aligned to {} bytes; write the file again with a current safetensors library",
         place.str(), element_bytes);
  }
  return entry;
}

std::map<std::string, std::string> parse_metadata(const std::string& path, const json& object) {
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) fail("{}: metadata '{}' must be a string", path, key);
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

std::string_view header_of(const std::string& path, std::string_view file) {
  uint64_t length = 0;
  if (file.size() < sizeof length) fail("{}: expected a safetensors file, found {} bytes", path, file.size());
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(file[i]);
  if (length > kMaxHeaderBytes || length > file.size() - sizeof length) {
    fail("{}: the header claims {} bytes, the file has {}; it is truncated or no safetensors file", path, length,
         file.size());
  }
  return file.substr(sizeof length, length);
}

// Every byte of the data belongs to exactly one tensor.
void check_coverage(const std::string& path, const std::map<std::string, Safetensors::Entry, std::less<>>& entries,
                    std::string_view data) {
  std::vector<std::pair<const Safetensors::Entry*, const std::string*>> in_order;
  for (const auto& [name, entry] : entries) in_order.emplace_back(&entry, &name);
  std::sort(in_order.begin(), in_order.end(), [](const auto& a, const auto& b) {
    return a.first->data != b.first->data ? a.first->data < b.first->data : a.first->n_bytes < b.first->n_bytes;
  });
  const char* end = data.data();
  for (const auto& [entry, name] : in_order) {
    if (entry->data < end) fail("{}: tensor '{}' overlaps another tensor", path, *name);
    if (entry->data > end) fail("{}: {} bytes before tensor '{}' belong to no tensor", path, entry->data - end, *name);
    end = entry->data + entry->n_bytes;
  }
  const auto excess = data.data() + data.size() - end;
  if (excess > 0) fail("{}: {} bytes after the last tensor belong to no tensor", path, excess);
}

DType float_type(const Place& place, const std::string& dtype) {
  if (dtype == "F32") return DType::f32;
  if (dtype == "F16") return DType::f16;
  if (dtype == "BF16") return DType::bf16;
  fail("{}: expected type F32, F16 or BF16, found {}", place.str(), dtype);
}

template <class Integer>
std::vector<int32_t> narrowed(const Place& place, const Safetensors::Entry& entry) {
  std::vector<Integer> wide(entry.n_bytes / sizeof(Integer));
  if (!wide.empty()) std::memcpy(wide.data(), entry.data, entry.n_bytes);
  std::vector<int32_t> result;
  for (const Integer value : wide) {
    if (value < INT32_MIN || value > INT32_MAX) fail("{}: {} is no 32-bit integer", place.str(), value);
    result.push_back(static_cast<int32_t>(value));
  }
  return result;
}

}  // namespace

Safetensors::Safetensors(const std::string& path) : path_(path), file_(path) {
  const std::string_view file(file_.bytes().data(), file_.bytes().size());
  const std::string_view header = header_of(path, file);
  const std::string_view data = file.substr(sizeof(uint64_t) + header.size());
  const json object = parse_json_object(header, path + ": header");
  for (const auto& [name, value] : object.items()) {
    if (name == "__metadata__") {
      metadata_ = parse_metadata(path, value);
    } else {
      entries_.emplace(name, parse_entry({path, name}, value, data));
    }
  }
  check_coverage(path, entries_, data);
}

const Safetensors::Entry& Safetensors::entry(std::string_view name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) fail("{}: tensor '{}' is missing", path(), name);
  return found->second;
}

TensorView Safetensors::tensor(std::string_view name) const {
  const Entry& found = entry(name);
  const std::string name_text(name);
  const Place place{path(), name_text};
  if (found.shape.size() > static_cast<size_t>(Shape::kMaxRank)) {
    fail("{}: expected at most {} dimensions, found {}", place.str(), Shape::kMaxRank, found.shape.size());
  }
  return {found.data, float_type(place, found.dtype), Shape(found.shape)};
}

std::vector<int32_t> Safetensors::integers(std::string_view name) const {
  const Entry& found = entry(name);
  const std::string name_text(name);
  const Place place{path(), name_text};
  if (found.shape.size() != 1) fail("{}: expected one dimension, found {}", place.str(), found.shape.size());
  if (found.dtype == "I64") return narrowed<int64_t>(place, found);
  if (found.dtype == "I32") return narrowed<int32_t>(place, found);
  fail("{}: expected type I64 or I32, found {}", place.str(), found.dtype);
}

}  // namespace squeeze
