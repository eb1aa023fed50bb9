// Single and sharded weight files.
#include "formats/weight_files.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"
#include "lib/model/json_fields.hpp"

namespace squeeze {
namespace {

namespace fs = std::filesystem;

void check_shard_name(const std::string& index_path, const nlohmann::json& name) {
  const std::string text = name.is_string() ? name.get<std::string>() : "";
  if (text.empty() || text.front() == '.' || text.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
    fail("{}: a shard must be a file name within the model's directory, found {}", index_path, name.dump());
  }
}

}  // namespace

std::string read_text(const std::string& path) {
  const MappedFile file(path);
  return {file.bytes().begin(), file.bytes().end()};
}

WeightFiles::WeightFiles(const std::string& directory) {
  const fs::path folder(directory);
  const std::string single = (folder / "model.safetensors").string();
  const std::string index = (folder / "model.safetensors.index.json").string();
  if (fs::exists(single)) {
    source_ = single;
    const Safetensors& file = files_.emplace(single, Safetensors(single)).first->second;
    for (const auto& [name, entry] : file.entries()) owners_.emplace(name, &file);
  } else if (fs::exists(index)) {
    open_shards(directory, index);
  } else {
    fail(
        "{}: found neither model.safetensors nor model.safetensors.index.json; convert other weight formats with "
        "save_pretrained(..., safe_serialization=True)",
        directory);
  }
}

void WeightFiles::open_shards(const std::string& directory, const std::string& index_path) {
  source_ = index_path;
  const nlohmann::json index = parse_json_object(read_text(index_path), index_path);
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) fail("{}: 'weight_map' is missing", index_path);
  for (const auto& [name, shard] : weight_map->items()) {
    check_shard_name(index_path, shard);
    const std::string path = (fs::path(directory) / shard.get<std::string>()).string();
    auto file = files_.find(path);
    if (file == files_.end()) file = files_.emplace(path, Safetensors(path)).first;
    if (!file->second.contains(name)) {
      fail("{}: tensor '{}' is missing, though {} says that it is there", path, name, index_path);
    }
    owners_.emplace(name, &file->second);
  }
}

TensorView WeightFiles::tensor(std::string_view name, const Shape& shape) const {
  const auto owner = owners_.find(name);
  if (owner == owners_.end()) fail("{}: tensor '{}' is missing", source_, name);
  const TensorView view = owner->second->tensor(name);
  if (view.shape() != shape) {
    fail("{}: tensor '{}' must have the shape {} that config.json asks for, found {}", owner->second->path(), name,
         shape.str(), view.shape().str());
  }
  return view;
}

}  // namespace squeeze
