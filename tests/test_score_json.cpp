// Tests of score_json: the answer line of a scored request, and sums over a run.
#include "formats/score_json.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

using namespace squeeze;

TEST_SUITE("score_json") {
  TEST_CASE("a scored request is one line with an entry per token") {
    ScoredAnswer answer{.id_json = "\"q\"", .tokens = {5, 6, 7}, .n_prompt_tokens = 0, .budget = 0.25, .kept = 0.125};
    answer.score.completion.logprobs = {-1, -3};
    const std::string line = json_of(answer);
    CHECK(line.find('\n') == std::string::npos);
    const auto json = nlohmann::json::parse(line);
    CHECK(json["id"] == "q");
    CHECK(json["tokens"] == std::vector<int>{5, 6, 7});
    CHECK(json["logprobs"] == nlohmann::json::parse("[null, -1, -3]"));
    CHECK(json["n_tokens"] == 3);
    CHECK(json["n_scored"] == 2);
    CHECK(json["nll"] == 4);
    CHECK(json["mean_nll"] == 2);
    CHECK(json["perplexity"] == doctest::Approx(std::exp(2.0)));
    CHECK_FALSE(json.contains("kl"));
    CHECK_FALSE(json.contains("dense_nll"));
    CHECK(json["prompt_n_scored"] == 0);
    CHECK(json["prompt_nll"] == 0);
    CHECK(json["prompt_perplexity"].is_null());
    CHECK(json["budget"] == 0.25);
  }

  TEST_CASE("a comparison with dense attention adds its scores, of the prompt too") {
    ScoredAnswer answer{.id_json = "1", .tokens = {5}, .n_prompt_tokens = 3};
    answer.score.completion = {{-1}, {-0.5}, {0.125}};
    answer.score.prompt = {{-1, -1}, {-2, -4}, {0.5, 1}};
    const auto json = nlohmann::json::parse(json_of(answer));
    CHECK(json["dense_logprobs"] == std::vector<double>{-0.5});
    CHECK(json["dense_perplexity"] == doctest::Approx(std::exp(0.5)));
    CHECK(json["kl"] == std::vector<double>{0.125});
    CHECK(json["mean_kl"] == 0.125);
    CHECK(json["n_prompt_tokens"] == 3);
    CHECK(json["prompt_n_scored"] == 2);
    CHECK(json["prompt_dense_nll"] == 6);
    CHECK(json["prompt_mean_kl"] == 0.75);
  }

  TEST_CASE("an impossible token is null, not a number") {
    ScoredAnswer answer{.id_json = "1", .tokens = {5}, .n_prompt_tokens = 1};
    answer.score.completion.logprobs = {-INFINITY};
    const auto json = nlohmann::json::parse(json_of(answer));
    CHECK(json["logprobs"][0].is_null());
    CHECK(json["perplexity"].is_null());
  }
}
