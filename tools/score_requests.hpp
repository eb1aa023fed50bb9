// What of a run is scored instead of generated: requests with a completion, graded answers, or a plain text.
#pragma once

#include <optional>
#include <string>

#include "formats/jsonl.hpp"

namespace CLI {
class App;
}

namespace squeeze {

struct ScoringOptions {
  std::string text;            // a file, or "-": its text is the one request
  int64_t chunk = 1;           // completion tokens per forward pass
  bool answers = false;        // an answer is a completion
  bool compare_dense = false;  // scores come with those of dense attention
};

// Follows bind_answers, whose options some of these exclude.
void bind_scoring(CLI::App& app, ScoringOptions& options);

// The text of a file as a request without prompt, its id the path. max_tokens cuts it.
RequestLine text_request(const std::string& path, std::optional<int64_t> max_tokens);

// What is scored after a prompt (as it will be encoded); nothing if the request is to be generated. An answer is
// separated from its prompt by a space, as it would be generated, unless either brings white space of its own.
std::optional<std::string> completion_to_score(const Request& request, const std::string& prompt,
                                               const ScoringOptions& options);

}  // namespace squeeze
