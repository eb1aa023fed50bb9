// The regular expressions of tokenizer.json (Oniguruma's dialect), run by PCRE2. The only file that sees PCRE2.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace squeeze {

class Regex {
 public:
  // Throws on a syntax error and on constructs that mean different things in the two dialects. `source` names the
  // place in errors. Unicode properties are those of the installed PCRE2 (10.42: Unicode 14).
  Regex(std::string_view pattern, const std::string& source);

  // Matches `text` itself.
  static Regex literal(std::string_view text, const std::string& source);

  // Calls match(begin, end) for every match from left to right; an empty match is reported unless it touches the end
  // of the one before. `text` is valid UTF-8. Linear for the patterns of real tokenizers; a pattern that needs too
  // many steps throws.
  void for_each_match(std::string_view text, const std::function<void(size_t begin, size_t end)>& match) const;

  // `text` with every match replaced by `with`, taken literally.
  std::string replace(std::string_view text, std::string_view with) const;

 private:
  Regex() = default;

  struct Code;
  std::shared_ptr<const Code> code_;  // null: literal_
  std::string literal_;
};

}  // namespace squeeze
