// The request loop of squeeze-run.
#include "tools/answer_requests.hpp"

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "formats/hf_model.hpp"
#include "formats/jsonl.hpp"
#include "lib/model/generate.hpp"
#include "tools/context_source.hpp"

namespace squeeze {
namespace {

using Json = nlohmann::ordered_json;

struct Totals {
  int64_t n_requests = 0, n_errors = 0, n_tokens = 0, n_graded = 0, n_correct = 0;
  double prefill_ms = 0, decode_ms = 0;
  Usage usage;
};

// A model loaded beside the index whose context it attends to.
class Session {
 public:
  Session(const AnswerOptions& o, const KvIndex& index, const Policy& policy, Rest rest)
      : model_(o.model),
        tokenizer_(model_.tokenizer()),
        transformer_(model_.config(), model_.weights(), parse_precision(o.precision)),
        view_(index.view()),
        attention_(view_, policy, rest),
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
  }

  Generation answer(const Request& request, const AnswerOptions& o) {
    attention_.clear_tail();
    const std::vector<int32_t> prompt = tokenizer_.encode(fill_template(o.prompt_template, request.prompt), false);
    GenerateOptions options;
    options.sampling = {o.temperature, o.sample_top_k, o.sample_top_p, request.seed.value_or(o.seed)};
    options.max_tokens = request.max_tokens.value_or(o.max_tokens);
    options.stop = o.stop;
    options.stop.insert(options.stop.end(), request.stop.begin(), request.stop.end());
    options.stop_tokens = model_.config().eos_tokens;
    options.chunk = o.chunk;
    return generate(transformer_, tokenizer_, attention_, prompt, n_context_, options);
  }
  const Usage& usage() const { return attention_.usage(); }

 private:
  static std::string fill_template(std::string text, const std::string& prompt) {
    const size_t at = text.find("{prompt}");
    return text.replace(at, 8, prompt);
  }

  HfModel model_;
  Tokenizer tokenizer_;
  Transformer transformer_;
  ContextView view_;
  ContextAttention attention_;
  int64_t n_context_;
};

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1);
}

Answer answer_of(const Request& request, const Generation& g, const Usage& usage, Totals& totals) {
  Answer answer{request.id_json,  g.text,       g.tokens,     g.finish_reason,
                usage.budget(),   usage.kept(), g.prefill_ms, g.decode_ms_per_token,
                g.n_prompt_tokens};
  if (request.answer) {
    answer.correct = trimmed(g.text) == trimmed(*request.answer);
    ++totals.n_graded;
    totals.n_correct += *answer.correct;
  }
  totals.n_tokens += std::ssize(g.tokens);
  totals.prefill_ms += g.prefill_ms;
  totals.decode_ms += g.decode_ms_per_token * double(std::ssize(g.tokens));
  totals.usage.add(usage);
  return answer;
}

std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  return text;
}

Json stats_json(const Totals& t, const AnswerOptions& o, const PolicyOptions& policy, double seconds) {
  const double n = double(std::max<int64_t>(1, t.n_requests - t.n_errors));
  Json stats = {{"rule", policy.describe()},
                {"rest", policy.rest},
                {"precision", o.precision},
                {"n_requests", t.n_requests},
                {"n_errors", t.n_errors},
                {"n_tokens", t.n_tokens},
                {"budget", t.usage.budget()},
                {"kept", t.usage.kept()},
                {"measured_sparsity", t.usage.sparsity()},
                {"bytes_read", t.usage.bytes_read},
                {"bytes_dense", t.usage.bytes_dense},
                {"prefill_ms", t.prefill_ms / n},
                {"decode_ms_per_token", t.decode_ms / double(std::max<int64_t>(1, t.n_tokens))},
                {"lookup_ms", t.usage.lookup_ms},
                {"attention_ms", t.usage.attention_ms},
                {"seconds", seconds}};
  if (t.n_graded > 0) {
    stats["n_graded"] = t.n_graded;
    stats["n_correct"] = t.n_correct;
    stats["accuracy"] = double(t.n_correct) / double(t.n_graded);
  }
  return stats;
}

void write_stats(const std::string& path, const Json& stats) {
  if (path.empty()) return;
  if (path == "-") {
    fmt::print(stderr, "{}\n", stats.dump());
    return;
  }
  std::ofstream file(path);
  file << stats.dump() << '\n';
  if (!file.flush()) fail("{}: could not write the summary", path);
}

// The next request: a line of JSON, or with --text the line itself.
std::optional<RequestLine> next_line(LineReader& lines, bool text) {
  if (!text) return next_request(lines);
  const std::optional<Line> line = lines.next();
  if (!line) return {};
  const std::string id = std::to_string(line->number);
  return RequestLine{line->number, Request{id, line->text, {}, {}, {}, {}}, "", id};
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
  app.add_option("requests", o.requests, "JSONL: {\"id\", \"prompt\", optional max_tokens, stop, seed, answer}")
      ->type_name("requests.jsonl|-");
  app.add_option("-o,--output", o.output, "Where the answers go, as JSONL")->type_name("FILE|-");
  app.add_flag("--force", o.force, "Replace an existing output file");
  app.add_flag("--resume", o.resume, "Skip the requests whose ids the output file already answers");
  app.add_option("--stats", o.stats, "Write a summary of the run (- for standard error)")->type_name("FILE|-");
  app.add_flag("--text", o.text, "One prompt per line in, one answer per line out");
  app.add_option("--template", o.prompt_template, "What a prompt is put into")
      ->type_name("'USER: {prompt} ASSISTANT:'");
  app.add_option("--max-tokens", o.max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
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
}

int answer_requests(const AnswerOptions& given, const CommonOptions& common, const KvIndex& index, const Policy& policy,
                    const PolicyOptions& policy_options) {
  AnswerOptions o = given;
  if (o.prompt_template.find("{prompt}") == std::string::npos) fail_usage("--template must contain {{prompt}}");
  if (o.resume && o.output == "-") fail_usage("--resume needs --output FILE: the answers that are already there");
  for (std::string& stop : o.stop) stop = unescaped(stop);

  const std::set<std::string> answered = o.resume ? resume_answers(o.output) : std::set<std::string>{};
  LineReader lines(o.requests);
  Session session(o, index, policy, policy_options.rest_mode());
  LineWriter writer(o.output, {o.force, o.resume});
  Totals totals;
  bool warn = true;
  const auto start = std::chrono::steady_clock::now();
  while (const std::optional<RequestLine> line = next_line(lines, o.text)) {
    if (answered.contains(line->id_json)) continue;
    ++totals.n_requests;
    std::string error = line->error;
    if (line->request) {
      try {
        const Generation g = session.answer(*line->request, o);
        if (!g.warning.empty() && std::exchange(warn, false)) note(common, g.warning);
        const Answer answer = answer_of(*line->request, g, session.usage(), totals);
        writer.write(o.text ? one_line(g.text) : json_of(answer));
        continue;
      } catch (const Error& e) {
        error = fmt::format("line {}: {}", line->line, e.what());
      }
    }
    ++totals.n_errors;
    note(common, fmt::format("{}: {}", o.requests, error));
    writer.write(o.text ? "" : json_of_error(line->id_json, error));
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  write_stats(o.stats, stats_json(totals, o, policy_options, elapsed.count()));
  return totals.n_errors > 0 ? 1 : 0;
}

}  // namespace squeeze
