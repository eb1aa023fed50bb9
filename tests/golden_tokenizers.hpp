// The tokenizers of tests/golden/tokenizers, as they are or changed by a JSON merge patch.
#pragma once

#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "lib/model/tokenizer.hpp"

namespace squeeze {

inline const std::string kTokenizerFolder = SQUEEZE_SOURCE_DIR "/tests/golden/tokenizers/";

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline nlohmann::json read_json(const std::string& name) {
  return nlohmann::json::parse(read_file(kTokenizerFolder + name));
}

inline Tokenizer patched(const std::string& name, const nlohmann::json& patch = nlohmann::json::object()) {
  nlohmann::json document = read_json(name);
  document.merge_patch(patch);
  return Tokenizer::from_json(document.dump(), name);
}

inline Tokenizer sentencepiece(bool add_bos) {
  return Tokenizer::from_sentencepiece(read_file(kTokenizerFolder + "sentencepiece.model"), "sentencepiece.model",
                                       add_bos);
}

}  // namespace squeeze
