// JSON Lines: requests in, answers out, one object per line.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "formats/partial_file.hpp"

namespace squeeze {

struct Line {
  int64_t number = 0;     // from 1
  std::string text;       // without its line end ("\n" or "\r\n")
  bool too_long = false;  // longer than the limit: text is its beginning
};

// Reads a file, or standard input for "-", line by line.
class LineReader {
 public:
  static constexpr size_t kMaxLineBytes = size_t{16} << 20;

  explicit LineReader(const std::string& path, size_t max_line_bytes = kMaxLineBytes);
  std::optional<Line> next();  // throws if the file cannot be read
  const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(std::FILE* file) const;
  };
  std::string path_;
  size_t max_line_bytes_;
  std::unique_ptr<std::FILE, Close> file_;
  int64_t n_lines_ = 0;
};

struct Request {
  std::string id_json;            // the id as JSON: "\"q7\"" or "7"; the line's number where there is none
  std::string prompt;             // may be missing (empty) only beside a completion
  std::optional<int> max_tokens;  // at least 1
  std::vector<std::string> stop;  // never empty strings
  std::optional<uint64_t> seed;
  std::optional<std::string> answer = {};      // what is right: the answer is graded
  std::optional<std::string> completion = {};  // what follows the prompt: it is scored, nothing is generated
};

// A line that is no valid request has an error (without the file's name) instead of a request, and an id if one could
// be read.
struct RequestLine {
  int64_t line = 0;
  std::optional<Request> request;
  std::string error;
  std::string id_json = "null";
};

RequestLine parse_request(const Line& line);

// The next line that is not blank.
std::optional<RequestLine> next_request(LineReader& lines);

struct Answer {
  std::string id_json = "null";
  std::string text;
  std::vector<int32_t> tokens;
  std::string finish_reason;  // "stop", "length"
  double budget = 0;          // bytes read of the context over its whole K and V
  double kept = 0;            // share of the clustered keys
  double prefill_ms = 0;
  double decode_ms_per_token = 0;
  int64_t n_prompt_tokens = 0;
  std::optional<bool> correct = {};  // of a graded request
};

// One line each, without its line end. Bytes that are not UTF-8 come out as U+FFFD.
std::string json_of(const Answer& answer);
std::string json_of_error(const std::string& id_json, const std::string& error);

// The ids (as JSON) of the answers in an output file; none if there is no such file. A last line that was only half
// written (no line end) is cut off the file. Throws on any other line that is no answer.
std::set<std::string> resume_answers(const std::string& path);

// Writes lines to a file, or to standard output for "-", and flushes each.
class LineWriter {
 public:
  // An existing file is an error, unless it is replaced (force) or appended to (resume).
  LineWriter(const std::string& path, WriteMode mode);
  void write(const std::string& line);  // throws if it cannot be written

 private:
  struct Close {
    void operator()(std::FILE* file) const;
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace squeeze
