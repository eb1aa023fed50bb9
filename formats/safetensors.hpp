// Reader of safetensors files: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/mapped_file.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {

class Safetensors {
 public:
  struct Entry {
    std::string dtype;           // "F32", "BF16", "I64", ...
    std::vector<int64_t> shape;  // any rank
    const char* data;            // aligned to the type
    uint64_t n_bytes;
  };

  // Maps the file and checks the whole header: types, shapes, sizes, alignment, and that the tensors cover the data
  // without overlap, gap or excess, as the format demands. Throws with the file and the tensor.
  explicit Safetensors(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, Entry, std::less<>>& entries() const { return entries_; }  // by name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }       // __metadata__
  bool contains(std::string_view name) const { return entries_.find(name) != entries_.end(); }

  // A mapped view, valid as long as this. Throws if the tensor is absent, not F32, F16 or BF16, or of rank above 4.
  TensorView tensor(std::string_view name) const;
  // The elements of an I32 or I64 tensor of rank 1. Throws if it is anything else, or an element exceeds int32.
  std::vector<int32_t> integers(std::string_view name) const;

 private:
  const Entry& entry(std::string_view name) const;

  std::string path_;
  MappedFile file_;
  std::map<std::string, Entry, std::less<>> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace squeeze
