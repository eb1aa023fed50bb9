// The safetensors files of a model directory, single or sharded, as one set of named tensors.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "formats/safetensors.hpp"

namespace squeeze {

// The content of a small file (JSON, a tokenizer).
std::string read_text(const std::string& path);

class WeightFiles {
 public:
  // Opens model.safetensors, or every shard that model.safetensors.index.json names (plain file names only).
  explicit WeightFiles(const std::string& directory);

  bool contains(std::string_view name) const { return owners_.find(name) != owners_.end(); }
  // A mapped view. Throws if the tensor is absent or has another shape, or a type other than F32, F16 and BF16.
  TensorView tensor(std::string_view name, const Shape& shape) const;

 private:
  void open_shards(const std::string& directory, const std::string& index_path);

  std::string source_;                                             // the file or the index, for errors
  std::map<std::string, Safetensors> files_;                       // by file name
  std::map<std::string, const Safetensors*, std::less<>> owners_;  // by tensor name
};

}  // namespace squeeze
