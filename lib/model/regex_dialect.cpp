// Rewrites the escapes whose meaning differs between Oniguruma and PCRE2; refuses what has no counterpart.
#include "lib/model/regex_dialect.hpp"

#include <algorithm>
#include <iterator>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

// Oniguruma's \w, as the inside of a class. Its Latin-1 fractions and superscripts are no letters but belong to it.
constexpr std::string_view kWordClass = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

constexpr std::string_view kGroups[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?i:", "(?>"};

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& source) : pattern_(pattern), source_(source) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\') {
        escape();
      } else if (in_class_) {
        inside_class();
      } else {
        outside_class();
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(std::string_view construct) const {
    fail("{}: unsupported construct '{}' in the regular expression '{}'", source_, construct, pattern_);
  }

  bool next_is(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void copy(size_t n) {
    out_ += pattern_.substr(at_, n);
    at_ += n;
  }

  void outside_class() {
    if (pattern_[at_] == '[') {
      in_class_ = true;
      copy(next_is("[^") ? 2 : 1);
      if (next_is("]")) refuse("[]");
      return;
    }
    const auto starts = [this](std::string_view text) { return next_is(text); };
    // Other options mean other things there: (?m) is PCRE2's (?s), and (?i) inside a pattern opens a group.
    if (next_is("(?") && std::none_of(std::begin(kGroups), std::end(kGroups), starts) &&
        !(at_ == 0 && next_is("(?i)"))) {
      refuse(pattern_.substr(at_, 4));
    }
    // (*VERB) is PCRE2's alone; {,n} is literal text for it; {n}+ and {n}? repeat a repeat in Oniguruma.
    for (const char* construct : {"(*", "{,", "}+", "}?"}) {
      if (next_is(construct)) refuse(construct);
    }
    copy(1);
  }

  void inside_class() {
    if (next_is("[")) refuse("a class inside a class");
    if (next_is("&&")) refuse("&&");
    if (pattern_[at_] == ']') in_class_ = false;
    copy(1);
  }

  void escape() {
    if (at_ + 1 == pattern_.size()) refuse("\\");
    const char c = pattern_[at_ + 1];
    if (c == 's' || c == 'S') {
      at_ += 2;
      out_ += c == 's' ? R"(\p{White_Space})" : R"(\P{White_Space})";
    } else if (c == 'w' || c == 'W') {
      word(c == 'W');
    } else if (c == 'u') {
      const std::string_view digits = pattern_.substr(at_ + 2, 4);
      if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos) refuse("\\u");
      at_ += 6;
      out_ += fmt::format("\\x{{{}}}", digits);
    } else if (const size_t close = pattern_.find('}', at_); (c == 'p' || c == 'P' || c == 'x') &&
                                                             pattern_.substr(at_ + 2).starts_with('{') &&
                                                             close != pattern_.npos) {
      copy(close + 1 - at_);
    } else if (std::string_view("dDpPrntfax").find(c) != std::string_view::npos || is_punctuation(c)) {
      copy(2);
    } else {
      refuse(pattern_.substr(at_, 2));
    }
  }

  void word(bool negated) {
    if (in_class_ && negated) refuse("\\W inside a class");
    at_ += 2;
    out_ += in_class_ ? std::string(kWordClass) : fmt::format("[{}{}]", negated ? "^" : "", kWordClass);
  }

  static bool is_punctuation(char c) {
    return static_cast<unsigned char>(c) < 0x80 && c > ' ' && c != 0x7F && !(c >= '0' && c <= '9') &&
           !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z');
  }

  std::string_view pattern_;
  const std::string& source_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

std::string pcre2_pattern(std::string_view pattern, const std::string& source) {
  return Translator(pattern, source).run();
}

}  // namespace squeeze
