// Scores as JSON.
#include "formats/score_json.hpp"

#include <cmath>
#include <nlohmann/json.hpp>

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

// Values of the last tokens of n; those before have none.
Json aligned(const std::vector<double>& values, size_t n) {
  Json array = Json::array();
  for (size_t i = values.size(); i < n; ++i) array.push_back(nullptr);
  for (const double value : values) array.push_back(value);
  return array;
}

void add_likelihood(Json& json, const std::string& prefix, const std::vector<double>& logprobs) {
  const double mean_nll = -mean(logprobs);
  json[prefix + "nll"] = logprobs.empty() ? 0.0 : mean_nll * static_cast<double>(logprobs.size());
  json[prefix + "mean_nll"] = mean_nll;
  json[prefix + "perplexity"] = std::exp(mean_nll);
}

}  // namespace

void add_summary(Json& json, const std::string& prefix, const TokenScores& scores) {
  json[prefix + "n_scored"] = scores.n_tokens();
  add_likelihood(json, prefix, scores.logprobs);
  if (scores.kl.empty()) return;
  add_likelihood(json, prefix + "dense_", scores.dense_logprobs);
  json[prefix + "mean_kl"] = mean(scores.kl);
}

std::string json_of(const ScoredAnswer& answer) {
  const TokenScores& scores = answer.score.completion;
  const size_t n = answer.tokens.size();
  Json json{{"id", Json::parse(answer.id_json)},
            {"tokens", answer.tokens},
            {"n_tokens", n},
            {"logprobs", aligned(scores.logprobs, n)}};
  if (!scores.kl.empty()) {
    json["dense_logprobs"] = aligned(scores.dense_logprobs, n);
    json["kl"] = aligned(scores.kl, n);
  }
  add_summary(json, "", scores);
  json["n_prompt_tokens"] = answer.n_prompt_tokens;
  add_summary(json, "prompt_", answer.score.prompt);
  json["budget"] = answer.budget;
  json["kept"] = answer.kept;
  json["prefill_ms"] = answer.score.prefill_ms;
  json["decode_ms_per_token"] = answer.score.decode_ms_per_token;
  return json.dump();
}

}  // namespace squeeze
