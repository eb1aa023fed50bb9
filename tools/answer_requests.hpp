// Answers or scores JSONL requests (or plain prompts, or a text) one by one over a fixed context.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "formats/kv_index.hpp"
#include "tools/policy_options.hpp"
#include "tools/score_requests.hpp"
#include "tools/tool.hpp"

namespace squeeze {

struct AnswerOptions {
  static constexpr int64_t kMaxTokens = 256;

  std::string model;
  std::string requests = "-";
  std::string output = "-";
  std::string stats;  // file for the summary, or "-" for standard error
  std::string prompt_template = "{prompt}";
  std::string precision = "bf16";
  std::vector<std::string> stop;
  std::optional<int64_t> max_tokens;  // default: kMaxTokens generated, all of a scored text
  int64_t chunk = 512;
  int64_t batch = 1;  // requests that are answered at a time
  float temperature = 0, sample_top_p = 1;
  int sample_top_k = 0;
  uint64_t seed = 0;
  ScoringOptions scoring;
  bool resume = false, force = false, text = false;
};

void bind_answers(CLI::App& app, AnswerOptions& options);

// Returns the exit status: 1 if a request could not be answered (its answer line carries an error).
int answer_requests(const AnswerOptions& options, const CommonOptions& common, const KvIndex& index,
                    const PolicyOptions& policy_options);

}  // namespace squeeze
