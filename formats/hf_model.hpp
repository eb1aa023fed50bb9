// A Hugging Face model directory: config.json, safetensors weights (mapped), tokenizer.
#pragma once

#include <memory>
#include <string>

#include "lib/model/config.hpp"
#include "lib/model/tokenizer.hpp"
#include "lib/model/weights.hpp"

namespace squeeze {

class HfModel {
 public:
  // Maps and checks every tensor that the architecture needs: name, shape, type. Reads model.safetensors, or the shards
  // that model.safetensors.index.json names. Throws with the file, what was expected and what was found.
  explicit HfModel(const std::string& directory);
  ~HfModel();
  HfModel(HfModel&&) noexcept;

  const ModelConfig& config() const;    // eos_tokens: those of generation_config.json if it has any
  const ModelWeights& weights() const;  // valid as long as this
  ModelInfo info() const;               // name (the directory's), fingerprint, shapes
  Tokenizer tokenizer() const;          // reads tokenizer.json, or tokenizer.model if there is no other

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace squeeze
