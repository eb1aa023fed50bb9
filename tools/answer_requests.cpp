// The request loop of squeeze-run.
#include "tools/answer_requests.hpp"

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <utility>

#include "formats/jsonl.hpp"
#include "lib/core/elapsed.hpp"
#include "tools/run_stats.hpp"
#include "tools/session.hpp"

namespace squeeze {
namespace {

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

// One run: each request becomes a line of output, and counts. As many as there are slots are answered at a time; lines
// come out in the order of the requests.
class Run {
 public:
  Run(const AnswerOptions& o, const CommonOptions& common, Session& session)
      : o_(o), common_(common), session_(session) {
    for (int64_t slot = o.batch; slot-- > 0;) free_slots_.push_back(static_cast<size_t>(slot));
    if (!o.scoring.text.empty()) progress_ = terminal_progress(common.quiet, "tokens");
  }

  bool full() const { return free_slots_.empty(); }
  bool idle() const { return active_.empty(); }

  // Unless full: begins a request.
  void take(const RequestLine& line) {
    ++stats.n_requests;
    lines_.emplace_back();
    const size_t number = first_line_ + lines_.size() - 1;
    if (!line.request) return fail_line(number, line, line.error);
    try {
      begin(number, line);
    } catch (const Error& e) {
      fail_line(number, line, fmt::format("line {}: {}", line.line, e.what()));
    }
  }

  // Unless idle: one more token of every request that is being answered.
  void step() {
    std::vector<Generating*> generating;
    for (Active& request : active_) generating.push_back(&request.generating);
    try {
      stats.decode_pass_ms += session_.step(generating);
      stats.n_in_passes += std::ssize(generating);
    } catch (const Error& e) {
      for (const Active& request : active_) {
        fail_line(request.number, request.line, fmt::format("line {}: {}", request.line.line, e.what()));
        free_slots_.push_back(request.slot);
      }
      active_.clear();
    }
    finish_done();
  }

  // The next line of output that is ready.
  std::optional<std::string> next_line() {
    if (lines_.empty() || !lines_.front()) return {};
    std::optional<std::string> line = std::move(lines_.front());
    lines_.pop_front();
    ++first_line_;
    return line;
  }

  RunStats stats;

 private:
  struct Active {
    size_t number, slot;
    RequestLine line;
    Generating generating;
  };

  void set_line(size_t number, std::string text) { lines_[number - first_line_] = std::move(text); }

  void fail_line(size_t number, const RequestLine& line, const std::string& error) {
    ++stats.n_errors;
    note(common_, fmt::format("{}: {}", o_.scoring.text.empty() ? o_.requests : o_.scoring.text, error));
    set_line(number, o_.text ? "" : json_of_error(line.id_json, error));
  }

  void begin(size_t number, const RequestLine& line) {
    const Request& request = *line.request;
    const size_t slot = free_slots_.back();
    if (const auto completion = completion_to_score(request, session_.prompt_of(request), o_.scoring)) {
      return set_line(number, scored(slot, request, *completion));
    }
    active_.push_back({number, slot, line, session_.start(slot, request)});
    free_slots_.pop_back();
    finish_done();
  }

  void finish_done() {
    for (size_t i = 0; i < active_.size();) {
      Active& request = active_[i];
      if (!request.generating.done()) {
        ++i;
        continue;
      }
      set_line(request.number, generated(request));
      free_slots_.push_back(request.slot);
      active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  std::string generated(Active& active) {
    const Request& request = *active.line.request;
    const Generation g = active.generating.finish();
    const Usage usage = session_.usage(active.slot);
    Answer answer{request.id_json,  g.text,       g.tokens,     g.finish_reason,
                  usage.budget(),   usage.kept(), g.prefill_ms, g.decode_ms_per_token,
                  g.n_prompt_tokens};
    if (request.answer) {
      answer.correct = trimmed(g.text) == trimmed(*request.answer);
      ++stats.n_graded;
      stats.n_correct += *answer.correct;
    }
    stats.n_tokens += std::ssize(g.tokens);
    count({g.prefill_ms, g.decode_ms_per_token, std::ssize(g.tokens)}, usage, g.warning);
    return o_.text ? one_line(g.text) : json_of(answer);
  }

  std::string scored(size_t slot, const Request& request, const std::string& completion) {
    const ScoredAnswer answer = session_.score(slot, request, completion, progress_);
    const Score& score = answer.score;
    stats.completion.append(score.completion);
    stats.prompt.append(score.prompt);
    count({score.prefill_ms, score.decode_ms_per_token, std::ssize(answer.tokens)}, session_.usage(slot),
          score.warning);
    return json_of(answer);
  }

  struct Times {
    double prefill_ms, decode_ms_per_token;
    int64_t n_tokens;
  };
  void count(const Times& times, const Usage& usage, const std::string& warning) {
    stats.n_decoded += times.n_tokens;
    stats.prefill_ms += times.prefill_ms;
    stats.decode_ms += times.decode_ms_per_token * double(times.n_tokens);
    stats.usage.add(usage);
    if (!warning.empty() && std::exchange(warn_, false)) note(common_, warning);
  }

  const AnswerOptions& o_;
  const CommonOptions& common_;
  Session& session_;
  Progress progress_;  // of a long text only
  bool warn_ = true;
  std::vector<size_t> free_slots_;
  std::vector<Active> active_;
  size_t first_line_ = 0;                         // the number of lines_.front()
  std::deque<std::optional<std::string>> lines_;  // empty: not answered yet
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
  app.add_option("--batch", o.batch, "Requests that are answered at a time: they share the reading of the weights")
      ->check(CLI::Range(int64_t{1}, int64_t{256}))
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
  const auto write_ready = [&] {
    while (const std::optional<std::string> line = run.next_line()) writer.write(*line);
  };
  for (bool more = true; more || !run.idle();) {
    while (more && !run.full()) {
      const std::optional<RequestLine> line = next_line();
      more = line.has_value();
      if (!line || answered.contains(line->id_json)) continue;
      run.take(*line);
      write_ready();
    }
    if (!run.idle()) run.step();
    write_ready();
  }
  RunStats& stats = run.stats;
  if (o.scoring.compare_dense && stats.n_requests > stats.n_errors && stats.completion.n_tokens() == 0) {
    note(common, "--compare-dense compares scores, and no request had a completion to score (see --score-answers)");
  }
  stats.rule = policy_options.describe();
  stats.rest = policy_options.rest;
  stats.precision = o.precision;
  stats.device = common.device;
  stats.batch = o.batch;
  stats.seconds = ms_since(start) / 1000;
  write_stats(o.stats, stats);
  return stats.n_errors > 0 ? 1 : 0;
}

}  // namespace squeeze
