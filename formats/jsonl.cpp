// Line I/O, and requests and answers as JSON.
#include "formats/jsonl.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

std::string dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

void close_unless_standard(std::FILE* file) {
  if (file && file != stdin && file != stdout) std::fclose(file);
}

bool is_id(const Json& value) { return value.is_string() || value.is_number(); }

// A value in an error message; lists and objects, which may be nested without end, by kind only.
std::string brief(const Json& value) { return value.is_number() ? value.dump() : value.type_name(); }

int parse_max_tokens(const Json& value) {
  const bool fits = value.is_number_integer() && !(value.is_number_unsigned() && value.get<uint64_t>() > (1u << 30)) &&
                    value.get<int64_t>() >= 1;
  if (!fits) fail("max_tokens: expected a whole number from 1 to {}, found {}", 1u << 30, brief(value));
  return value.get<int>();
}

std::string parse_stop_string(const Json& value) {
  if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
    fail("stop: expected a string or a list of strings, none empty");
  }
  return value.get<std::string>();
}

std::vector<std::string> parse_stop(const Json& value) {
  if (!value.is_array()) return {parse_stop_string(value)};
  std::vector<std::string> stops;
  for (const Json& stop : value) stops.push_back(parse_stop_string(stop));
  return stops;
}

std::string parse_completion(const Json& value) {
  if (!value.is_string()) fail("completion: expected a string, found {}", brief(value));
  if (value.get_ref<const std::string&>().empty()) fail("completion: expected text to score, found an empty string");
  return value.get<std::string>();
}

Request parse_fields(const Json& json, std::string id_json) {
  const auto present = [&](const char* key) { return json.contains(key) && !json[key].is_null(); };
  Request request{std::move(id_json), {}, {}, {}, {}, {}};
  if (present("completion")) request.completion = parse_completion(json["completion"]);
  const bool needs_prompt = !request.completion || present("prompt");
  if (needs_prompt && (!present("prompt") || !json["prompt"].is_string())) fail("prompt: expected a string");
  if (present("prompt")) request.prompt = json["prompt"].get<std::string>();
  if (present("answer")) {
    if (!json["answer"].is_string()) fail("answer: expected a string, found {}", brief(json["answer"]));
    request.answer = json["answer"].get<std::string>();
  }
  if (present("max_tokens")) request.max_tokens = parse_max_tokens(json["max_tokens"]);
  if (present("stop")) request.stop = parse_stop(json["stop"]);
  if (present("seed")) {
    if (!json["seed"].is_number_unsigned()) fail("seed: expected a whole number from 0, found {}", brief(json["seed"]));
    request.seed = json["seed"].get<uint64_t>();
  }
  return request;
}

// The id of an answer; nothing if the line is none.
std::optional<std::string> answer_id(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("id") || !(is_id(json["id"]) || json["id"].is_null())) return {};
  return json["id"].dump();
}

}  // namespace

void LineReader::Close::operator()(std::FILE* file) const { close_unless_standard(file); }
void LineWriter::Close::operator()(std::FILE* file) const { close_unless_standard(file); }

LineReader::LineReader(const std::string& path, size_t max_line_bytes)
    : path_(path), max_line_bytes_(max_line_bytes), file_(path == "-" ? stdin : std::fopen(path.c_str(), "rbe")) {
  if (!file_) fail("{}: cannot open: {}", path, std::strerror(errno));
}

std::optional<Line> LineReader::next() {
  Line line{n_lines_ + 1, {}, false};
  int c = std::getc(file_.get());
  if (c == EOF && std::ferror(file_.get())) fail("{}: cannot read: {}", path_, std::strerror(errno));
  if (c == EOF) return {};
  for (; c != EOF && c != '\n'; c = std::getc(file_.get())) {
    if (line.text.size() < max_line_bytes_) {
      line.text.push_back(static_cast<char>(c));
    } else {
      line.too_long = true;
    }
  }
  if (std::ferror(file_.get())) fail("{}: line {}: cannot read: {}", path_, line.number, std::strerror(errno));
  if (!line.text.empty() && line.text.back() == '\r' && !line.too_long) line.text.pop_back();
  ++n_lines_;
  return line;
}

RequestLine parse_request(const Line& line) {
  RequestLine result{line.number, {}, {}, "null"};
  try {
    if (line.too_long) fail("longer than {} bytes", line.text.size());
    const Json json = Json::parse(line.text);
    if (!json.is_object()) fail("expected a JSON object");
    const bool has_id = json.contains("id") && !json["id"].is_null();
    if (has_id && !is_id(json["id"])) fail("id: expected a string or a number");
    result.id_json = has_id ? json["id"].dump() : std::to_string(line.number);
    result.request = parse_fields(json, result.id_json);
  } catch (const Json::exception& error) {
    result.error = fmt::format("line {}: not valid JSON: {}", line.number, error.what());
  } catch (const Error& error) {
    result.error = fmt::format("line {}: {}", line.number, error.what());
  }
  return result;
}

std::optional<RequestLine> next_request(LineReader& lines) {
  while (const std::optional<Line> line = lines.next()) {
    if (line->text.find_first_not_of(" \t") != std::string::npos) return parse_request(*line);
  }
  return {};
}

std::string json_of(const Answer& answer) {
  OrderedJson json{{"id", OrderedJson::parse(answer.id_json)},
                   {"text", answer.text},
                   {"tokens", answer.tokens},
                   {"finish_reason", answer.finish_reason},
                   {"n_prompt_tokens", answer.n_prompt_tokens},
                   {"budget", answer.budget},
                   {"kept", answer.kept},
                   {"prefill_ms", answer.prefill_ms},
                   {"decode_ms_per_token", answer.decode_ms_per_token}};
  if (answer.correct) json["correct"] = *answer.correct;
  return dump(json);
}

std::string json_of_error(const std::string& id_json, const std::string& error) {
  return dump(OrderedJson{{"id", OrderedJson::parse(id_json)}, {"error", error}});
}

std::set<std::string> resume_answers(const std::string& path) {
  std::set<std::string> ids;
  if (path == "-") fail("standard output cannot be resumed; name an output file");
  if (::access(path.c_str(), F_OK) != 0) return ids;
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) fail("{}: cannot read: {}", path, std::strerror(errno));
  int64_t n_lines = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos && text[at] == '{') {
      if (::truncate(path.c_str(), static_cast<off_t>(at)) != 0)
        fail("{}: cannot truncate: {}", path, std::strerror(errno));
      break;
    }
    const std::optional<std::string> id = answer_id(std::string_view(text).substr(at, end - at));
    if (!id) fail("{}: line {} is not an answer; choose another output file", path, n_lines + 1);
    ids.insert(*id);
    at = end == std::string::npos ? text.size() : end + 1;
    ++n_lines;
  }
  return ids;
}

LineWriter::LineWriter(const std::string& path, WriteMode mode) : path_(path) {
  if (path == "-") {
    file_.reset(stdout);
    return;
  }
  const char* how = mode.resume ? "abe" : mode.force ? "wbe" : "wbxe";
  file_.reset(std::fopen(path.c_str(), how));
  if (file_) return;
  if (errno == EEXIST) fail("{}: exists; use --force to replace it, --resume to continue it, or another name", path);
  fail("{}: cannot open: {}", path, std::strerror(errno));
}

void LineWriter::write(const std::string& line) {
  const bool written = std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size() &&
                       std::putc('\n', file_.get()) != EOF && std::fflush(file_.get()) == 0;
  if (!written) fail("{}: cannot write: {}", path_, std::strerror(errno));
}

}  // namespace squeeze
