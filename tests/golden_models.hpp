// The golden model directories (scripts/make_golden.py) and what transformers computed for them.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "formats/hf_model.hpp"
#include "formats/safetensors.hpp"
#include "lib/model/transformer.hpp"

namespace squeeze::golden {

inline const std::string kFolder = std::string(SQUEEZE_SOURCE_DIR) + "/tests/golden/models";

inline std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Prompt {
  std::vector<int32_t> tokens;     // [300]
  std::vector<int64_t> positions;  // where logits are recorded
};

inline Prompt prompt() {
  const nlohmann::json file = nlohmann::json::parse(std::ifstream(kFolder + "/tokens.json"));
  return {file["tokens"].get<std::vector<int32_t>>(), file["positions"].get<std::vector<int64_t>>()};
}

struct Model {
  explicit Model(const std::string& name)
      : files(kFolder + "/" + name), expected(kFolder + "/" + name + "/golden.safetensors") {}
  HfModel files;
  Safetensors expected;

  Transformer transformer(Precision precision = Precision::f32) const {
    return Transformer(files.config(), files.weights(), precision);
  }
};

// The largest difference of the logits [n_tokens, vocab] from those of transformers, over the recorded positions.
inline double largest_error(const Model& model, TensorView logits) {
  const TensorView expected = model.expected.tensor("logits");
  const std::vector<int64_t> positions = prompt().positions;
  REQUIRE(expected.shape() == Shape{static_cast<int64_t>(positions.size()), logits.size(1)});
  double error = 0;
  for (size_t i = 0; i < positions.size(); ++i) {
    for (int64_t j = 0; j < logits.size(1); ++j) {
      const double difference =
          double{logits[positions[i]].f32()[j]} - double{expected[static_cast<int64_t>(i)].f32()[j]};
      if (!(std::abs(difference) <= error)) error = std::abs(difference);  // a NaN is an error too
    }
  }
  return error;
}

}  // namespace squeeze::golden
