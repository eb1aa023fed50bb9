// The "pre_tokenizer" of tokenizer.json: cuts a normalized text into the words that BPE sees one by one.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

namespace squeeze {

class JsonNode;

class PreTokenizer {
 public:
  // Receives a word (never empty; valid during the call) and whether it begins where the whole input begins.
  using Sink = std::function<void(std::string_view word, bool at_start)>;

  PreTokenizer() = default;  // the whole text is one word
  // Throws on a kind that is not supported, naming it.
  explicit PreTokenizer(const JsonNode& node);

  // Calls sink for each word, in order. `text` is valid UTF-8; at_start: no text or token was before it.
  void split(std::string_view text, bool at_start, const Sink& sink) const;

  using Step = std::function<void(std::string_view text, bool at_start, const Sink& sink)>;

 private:
  void add(const JsonNode& node);

  std::vector<Step> steps_;
};

}  // namespace squeeze
