// Compilation and matching through PCRE2, with its JIT compiler where there is one.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/model/regex.hpp"

#include <pcre2.h>

#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"
#include "lib/model/regex_dialect.hpp"

namespace squeeze {
namespace {

constexpr size_t kJitStackBytes = size_t{1} << 20;

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

template <auto free>
struct Free {
  void operator()(auto* p) const { free(p); }
};

// What one run over a text needs beside the compiled pattern.
struct MatchState {
  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr)) {
    if (!data || !context) fail("out of memory: could not start a regular expression");
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
  std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> data;
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> context;
  std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>> stack;
};

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> compiled;
  std::string pattern;
  std::string source;

  // Whether there is a match at or after `offset`; its place is then in `state`.
  bool search(std::string_view text, size_t offset, MatchState& state) const {
    const auto run = [&](uint32_t options) {
      return pcre2_match(compiled.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), offset,
                         options | PCRE2_NO_UTF_CHECK, state.data.get(), state.context.get());
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

Regex::Regex(std::string_view pattern, const std::string& source)
    : Regex(compile(pcre2_pattern(pattern, source), false, pattern, source)) {}

Regex Regex::literal(std::string_view text, const std::string& source) {
  if (text.empty()) fail("{}: expected a pattern, found an empty string", source);
  return compile(std::string(text), true, text, source);
}

Regex Regex::compile(const std::string& translated, bool is_literal, std::string_view pattern,
                     const std::string& source) {
  const std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>> context(
      pcre2_compile_context_create(nullptr));
  if (!context) fail("out of memory: could not compile a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const uint32_t options = is_literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE;
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->compiled.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                     PCRE2_UTF | options, &error, &offset, context.get()));
  if (!code->compiled) fail("{}: bad regular expression '{}': {}", source, pattern, message_of(error));
  pcre2_jit_compile(code->compiled.get(), PCRE2_JIT_COMPLETE);  // an absent JIT is only slower
  code->pattern = pattern;
  code->source = source;
  Regex regex;
  regex.code_ = std::move(code);
  return regex;
}

void Regex::for_each_match(std::string_view text, const std::function<void(size_t, size_t)>& match) const {
  MatchState state(code_->compiled.get());
  size_t offset = 0;
  size_t last_end = text.size() + 1;  // none yet
  while (offset <= text.size() && code_->search(text, offset, state)) {
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(state.data.get());
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
