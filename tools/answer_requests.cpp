// The request loop of squeeze-run.
#include "tools/answer_requests.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <utility>

#include "formats/hf_model.hpp"
#include "formats/jsonl.hpp"
#include "formats/score_json.hpp"
#include "lib/core/elapsed.hpp"
#include "lib/model/generate.hpp"
#include "tools/chosen_attention.hpp"
#include "tools/context_source.hpp"
#include "tools/run_stats.hpp"

namespace squeeze {
namespace {

// A model loaded beside the index whose context it attends to.
class Session {
 public:
  Session(const AnswerOptions& o, const CommonOptions& common, const KvIndex& index, const PolicyOptions& policy)
      : maker_(attention_maker(policy, index, common.cuda())),
        model_(o.model),
        tokenizer_(model_.tokenizer()),
        transformer_(model_.config(), model_.weights(), operations_for(o.precision, common.cuda())),
        view_(index.view()),
        n_context_(index.context().n_tokens()) {
    const std::string found = model_.info().model_fingerprint;
    const std::string& expected = index.context().model.model_fingerprint;
    if (found != expected) {
      fail(
          "{}: the index was built with another model (its fingerprint is {}, this model's {}); name the model that "
          "it was built with",
          o.model, expected, found);
    }
    transformer_.set_sequence_length(n_context_);
    attention_ = maker_(transformer_.operations(), view_);
  }

  // The prompt as it is encoded.
  static std::string prompt_of(const Request& request, const AnswerOptions& o) {
    std::string text = o.prompt_template;
    return text.replace(text.find("{prompt}"), 8, request.prompt);
  }

  Generation answer(const Request& request, const AnswerOptions& o) {
    attention_.chosen->clear_tail();
    const std::vector<int32_t> prompt = tokenizer_.encode(prompt_of(request, o), false);
    GenerateOptions options;
    options.sampling = {o.temperature, o.sample_top_k, o.sample_top_p, request.seed.value_or(o.seed)};
    options.max_tokens = request.max_tokens.value_or(o.max_tokens.value_or(AnswerOptions::kMaxTokens));
    options.stop = o.stop;
    options.stop.insert(options.stop.end(), request.stop.begin(), request.stop.end());
    options.stop_tokens = model_.config().eos_tokens;
    options.chunk = o.chunk;
    return generate(transformer_, tokenizer_, *attention_.chosen, prompt, n_context_, options);
  }

  ScoredAnswer score(const Request& request, const std::string& completion, const AnswerOptions& o,
                     const Progress& progress) {
    attention_.chosen->clear_tail();
    attention_.dense->clear_tail();
    GivenTokens given = encode_given(tokenizer_, prompt_of(request, o), completion);
    const size_t limit = request.max_tokens ? static_cast<size_t>(*request.max_tokens) : given.completion.size();
    given.completion.resize(std::min(given.completion.size(), limit));
    Score scores = squeeze::score(transformer_, given, n_context_, {o.chunk, o.scoring.chunk, progress},
                                  *attention_.chosen, o.scoring.compare_dense ? attention_.dense.get() : nullptr);
    return {request.id_json, std::move(given.completion), std::ssize(given.prompt), std::move(scores), usage().budget(),
            usage().kept()};
  }

  Usage usage() const { return attention_.chosen->usage(); }

 private:
  AttentionMaker maker_;  // first: a wrong policy is known at once
  HfModel model_;
  Tokenizer tokenizer_;
  Transformer transformer_;
  ContextView view_;
  ChosenAttention attention_;  // scores are compared with the dense one
  int64_t n_context_;
};

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

// One run: each request becomes a line of output, and counts.
class Run {
 public:
  Run(const AnswerOptions& o, const CommonOptions& common, Session& session)
      : o_(o), common_(common), session_(session) {
    if (!o.scoring.text.empty()) progress_ = terminal_progress(common.quiet, "tokens");
  }

  std::string line_of(const RequestLine& line) {
    ++stats.n_requests;
    std::string error = line.error;
    if (line.request) {
      try {
        return line_of(*line.request);
      } catch (const Error& e) {
        error = fmt::format("line {}: {}", line.line, e.what());
      }
    }
    ++stats.n_errors;
    note(common_, fmt::format("{}: {}", o_.scoring.text.empty() ? o_.requests : o_.scoring.text, error));
    return o_.text ? "" : json_of_error(line.id_json, error);
  }

  RunStats stats;

 private:
  std::string line_of(const Request& request) {
    const auto completion = completion_to_score(request, Session::prompt_of(request, o_), o_.scoring);
    return completion ? scored(request, *completion) : generated(request);
  }

  std::string generated(const Request& request) {
    const Generation g = session_.answer(request, o_);
    const Usage usage = session_.usage();
    Answer answer{request.id_json,  g.text,       g.tokens,     g.finish_reason,
                  usage.budget(),   usage.kept(), g.prefill_ms, g.decode_ms_per_token,
                  g.n_prompt_tokens};
    if (request.answer) {
      answer.correct = trimmed(g.text) == trimmed(*request.answer);
      ++stats.n_graded;
      stats.n_correct += *answer.correct;
    }
    stats.n_tokens += std::ssize(g.tokens);
    count(g.prefill_ms, g.decode_ms_per_token, std::ssize(g.tokens), g.warning);
    return o_.text ? one_line(g.text) : json_of(answer);
  }

  std::string scored(const Request& request, const std::string& completion) {
    const ScoredAnswer answer = session_.score(request, completion, o_, progress_);
    const Score& score = answer.score;
    stats.completion.append(score.completion);
    stats.prompt.append(score.prompt);
    count(score.prefill_ms, score.decode_ms_per_token, std::ssize(answer.tokens), score.warning);
    return json_of(answer);
  }

  void count(double prefill_ms, double decode_ms_per_token, int64_t n_tokens, const std::string& warning) {
    stats.n_decoded += n_tokens;
    stats.prefill_ms += prefill_ms;
    stats.decode_ms += decode_ms_per_token * double(n_tokens);
    stats.usage.add(session_.usage());
    if (!warning.empty() && std::exchange(warn_, false)) note(common_, warning);
  }

  const AnswerOptions& o_;
  const CommonOptions& common_;
  Session& session_;
  Progress progress_;  // of a long text only
  bool warn_ = true;
};

// A line of a file of plain prompts.
std::optional<RequestLine> next_prompt(LineReader& lines) {
  const std::optional<Line> line = lines.next();
  if (!line) return {};
  const std::string id = std::to_string(line->number);
  return RequestLine{line->number, Request{id, line->text, {}, {}, {}, {}}, "", id};
}

// Lines of JSON, with --text of plain prompts, or with --score-text one request.
std::function<std::optional<RequestLine>()> request_source(const AnswerOptions& o) {
  if (!o.scoring.text.empty()) {
    return [request = std::optional(text_request(o.scoring.text, o.max_tokens))]() mutable {
      return std::exchange(request, std::nullopt);
    };
  }
  const auto lines = std::make_shared<LineReader>(o.requests);
  return [lines, text = o.text] { return text ? next_prompt(*lines) : next_request(*lines); };
}

// "\\n" and "\\t" as a shell user types them.
std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '\\' && i + 1 < text.size();
    const char next = escape ? text[i + 1] : '\0';
    if (next == 'n' || next == 't' || next == '\\') {
      out += next == 'n' ? '\n' : next == 't' ? '\t' : '\\';
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

void bind_answers(CLI::App& app, AnswerOptions& o) {
  app.add_option("--model", o.model, "Hugging Face model directory, the one the index was built with")
      ->type_name("DIR");
  app.add_option("requests", o.requests,
                 "JSONL: {\"id\", \"prompt\", optional max_tokens, stop, seed, answer, completion (scored)}")
      ->type_name("requests.jsonl|-");
  app.add_option("-o,--output", o.output, "Where the answers go, as JSONL")->type_name("FILE|-");
  app.add_flag("--force", o.force, "Replace an existing output file");
  app.add_flag("--resume", o.resume, "Skip the requests whose ids the output file already answers");
  app.add_option("--stats", o.stats, "Write a summary of the run (- for standard error)")->type_name("FILE|-");
  app.add_flag("--text", o.text, "One prompt per line in, one answer per line out");
  app.add_option("--template", o.prompt_template, "What a prompt is put into")
      ->type_name("'USER: {prompt} ASSISTANT:'");
  app.add_option("--max-tokens", o.max_tokens, "Tokens to generate at most (256), or to score of --score-text (all)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  app.add_option("--stop", o.stop, "End the answer before this text; repeatable (\\n is a newline)")
      ->allow_extra_args(false);
  app.add_option("--temperature", o.temperature, "0: greedy")->check(CLI::Range(0.0f, 100.0f))->capture_default_str();
  app.add_option("--sample-top-k", o.sample_top_k, "Sample among the k likeliest tokens (0: all)")
      ->check(CLI::Range(0, 1 << 30));
  app.add_option("--sample-top-p", o.sample_top_p, "Sample among the likeliest tokens of this share")
      ->check(CLI::Range(0.0f, 1.0f));
  app.add_option("--seed", o.seed, "Seed of the sampling; a request's own comes first");
  app.add_option("--precision", o.precision, "Arithmetic of the forward pass: f32 or bf16 matmuls")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  app.add_option("--chunk", o.chunk, "Prompt tokens per step; each step selects once")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  bind_scoring(app, o.scoring);
}

int answer_requests(const AnswerOptions& given, const CommonOptions& common, const KvIndex& index,
                    const PolicyOptions& policy_options) {
  AnswerOptions o = given;
  if (o.prompt_template.find("{prompt}") == std::string::npos) fail_usage("--template must contain {{prompt}}");
  if (o.resume && o.output == "-") fail_usage("--resume needs --output FILE: the answers that are already there");
  for (std::string& stop : o.stop) stop = unescaped(stop);

  const std::set<std::string> answered = o.resume ? resume_answers(o.output) : std::set<std::string>{};
  const auto next_line = request_source(o);
  Session session(o, common, index, policy_options);
  LineWriter writer(o.output, {o.force, o.resume});
  Run run(o, common, session);
  const auto start = std::chrono::steady_clock::now();
  while (const std::optional<RequestLine> line = next_line()) {
    if (!answered.contains(line->id_json)) writer.write(run.line_of(*line));
  }
  RunStats& stats = run.stats;
  if (o.scoring.compare_dense && stats.n_requests > stats.n_errors && stats.completion.n_tokens() == 0) {
    note(common, "--compare-dense compares scores, and no request had a completion to score (see --score-answers)");
  }
  stats.rule = policy_options.describe();
  stats.rest = policy_options.rest;
  stats.precision = o.precision;
  stats.seconds = ms_since(start) / 1000;
  write_stats(o.stats, stats);
  return stats.n_errors > 0 ? 1 : 0;
}

}  // namespace squeeze
