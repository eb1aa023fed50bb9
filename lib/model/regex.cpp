// Compilation and matching through PCRE2, with its JIT compiler where there is one.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/model/regex.hpp"

#include <pcre2.h>

#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"
#include "lib/model/regex_dialect.hpp"

namespace squeeze {
namespace {

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

template <auto free>
struct Free {
  void operator()(auto* p) const { free(p); }
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> compiled;
  std::string pattern;
  std::string source;

  // Whether there is a match at or after `offset`; its offsets are then in `place`.
  bool search(std::string_view text, size_t offset, pcre2_match_data* place) const {
    const auto run = [&](uint32_t options) {
      return pcre2_match(compiled.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), offset,
                         options | PCRE2_NO_UTF_CHECK, place, nullptr);
    };
    int found = run(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(PCRE2_NO_JIT);  // slower, but its stack is the heap
    if (found == PCRE2_ERROR_NOMATCH) return false;
    if (found < 0) {
      fail("{}: the regular expression '{}' gave up at byte {} of the text: {}", source, pattern, offset,
           message_of(found));
    }
    return true;
  }
};

Regex::Regex(std::string_view pattern, const std::string& source) {
  const std::string translated = pcre2_pattern(pattern, source);
  const std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>> context(
      pcre2_compile_context_create(nullptr));
  if (!context) fail("out of memory: could not compile a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->compiled.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &offset, context.get()));
  if (!code->compiled) fail("{}: bad regular expression '{}': {}", source, pattern, message_of(error));
  pcre2_jit_compile(code->compiled.get(), PCRE2_JIT_COMPLETE);  // an absent JIT is only slower
  code->pattern = pattern;
  code->source = source;
  code_ = std::move(code);
}

Regex Regex::literal(std::string_view text, const std::string& source) {
  if (text.empty()) fail("{}: expected a pattern, found an empty string", source);
  Regex regex;
  regex.literal_ = text;
  return regex;
}

void Regex::for_each_match(std::string_view text, const std::function<void(size_t, size_t)>& match) const {
  if (!code_) {
    for (size_t i = text.find(literal_); i != text.npos; i = text.find(literal_, i + literal_.size())) {
      match(i, i + literal_.size());
    }
    return;
  }
  const std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> place(
      pcre2_match_data_create_from_pattern(code_->compiled.get(), nullptr));
  if (!place) fail("out of memory: could not start a regular expression");
  size_t offset = 0;
  size_t last_end = text.size() + 1;  // none yet
  while (offset <= text.size() && code_->search(text, offset, place.get())) {
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(place.get());
    const size_t begin = span[0], end = span[1];
    const bool touching = begin == end && begin == last_end;
    if (!touching) match(begin, end);
    last_end = end;
    offset = end > begin ? end : end < text.size() ? end + utf8_length(text[end]) : text.size() + 1;
  }
}

std::string Regex::replace(std::string_view text, std::string_view with) const {
  std::string replaced;
  replaced.reserve(text.size());
  size_t done = 0;
  for_each_match(text, [&](size_t begin, size_t end) {
    replaced.append(text.substr(done, begin - done)).append(with);
    done = end;
  });
  return replaced.append(text.substr(done));
}

}  // namespace squeeze
