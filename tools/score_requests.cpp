// Options of scoring, and the requests that they make.
#include "tools/score_requests.hpp"

#include <CLI/CLI.hpp>
#include <limits>
#include <nlohmann/json.hpp>

#include "formats/corpus.hpp"

namespace squeeze {
namespace {

constexpr const char* kSpaces = " \t\r\n";

bool is_space(char c) { return std::string_view(kSpaces).find(c) != std::string_view::npos; }

}  // namespace

void bind_scoring(CLI::App& app, ScoringOptions& o) {
  auto* text =
      app.add_option("--score-text", o.text, "Score this text, which continues the context")->type_name("FILE|-");
  auto* answers = app.add_flag("--score-answers", o.answers, "Score the answers of graded requests, generate none");
  auto* compare = app.add_flag("--compare-dense", o.compare_dense,
                               "Score under dense attention too: KL divergence per token, dense perplexity");
  app.add_option("--score-chunk", o.chunk, "Scored tokens per step (1: as they are generated)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  text->excludes("requests", "--template", "--text");
  answers->excludes("--text", "--score-text");
  compare->excludes("--text");
}

RequestLine text_request(const std::string& path, std::optional<int64_t> max_tokens) {
  Request request;
  request.id_json = nlohmann::json(path).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  request.completion = read_document(path);
  if (max_tokens) request.max_tokens = static_cast<int>(*max_tokens);  // at most 2^30, as the option says
  RequestLine line{1, {}, "", request.id_json};
  line.request = std::move(request);
  return line;
}

std::optional<std::string> completion_to_score(const Request& request, const std::string& prompt,
                                               const ScoringOptions& options) {
  if (request.completion || !options.answers || !request.answer) return request.completion;
  const std::string& answer = *request.answer;
  const bool apart = prompt.empty() || answer.empty() || is_space(prompt.back()) || is_space(answer.front());
  return apart ? answer : " " + answer;
}

}  // namespace squeeze
