// The "post_processor" of tokenizer.json: the tokens around a text (BOS, EOS).
#pragma once

#include <cstdint>
#include <vector>

namespace squeeze {

class JsonNode;

struct TokenTemplate {
  std::vector<int32_t> prefix, suffix;
};

// Reads TemplateProcessing for single texts, ByteLevel (which changes no ids), and Sequence of them. Throws on other
// kinds, naming them.
TokenTemplate parse_template(const JsonNode& node);

}  // namespace squeeze
