// Scores of given text as JSON: the answer line of a scored request, and sums over a run.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/model/score.hpp"

namespace squeeze {

struct ScoredAnswer {
  std::string id_json = "null";
  std::vector<int32_t> tokens;  // of the completion
  int64_t n_prompt_tokens = 0;
  Score score = {};
  double budget = 0;  // as in Answer
  double kept = 0;
};

// One line, without its line end. `logprobs` and their like have one entry per token, null for one without a score.
std::string json_of(const ScoredAnswer& answer);

// Adds PREFIX + n_scored, nll (sum), mean_nll, perplexity, and, where they were compared with dense attention,
// dense_nll, dense_mean_nll, dense_perplexity and mean_kl. What is a mean of no tokens, or infinite, is null.
void add_summary(nlohmann::ordered_json& json, const std::string& prefix, const TokenScores& scores);

}  // namespace squeeze
