// Finds stop strings in growing text, across the borders of tokens.
#include "lib/model/text_stream.hpp"

#include <algorithm>
#include <utility>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

size_t without_unfinished_characters(std::string_view text) {
  while (text.ends_with(kReplacement)) text.remove_suffix(kReplacement.size());
  return text.size();
}

// Where the longest ending of `text` begins that is also a beginning of `stop`.
size_t possible_stop(std::string_view text, std::string_view stop) {
  for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n) {
    if (text.ends_with(stop.substr(0, n))) return text.size() - n;
  }
  return text.size();
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop_strings) : stop_strings_(std::move(stop_strings)) {
  for (const std::string& stop : stop_strings_) {
    if (stop.empty()) fail("a stop string must not be empty");
  }
}

std::string TextStream::take(std::string_view text, size_t end) {
  if (end <= n_final_) return {};
  const size_t begin = std::exchange(n_final_, end);
  return std::string(text.substr(begin, end - begin));
}

std::string TextStream::advance(std::string_view text) {
  if (stopped_) return {};
  // A stop string that began in the final text would have been held back, so only the rest is searched.
  size_t stop_at = std::string_view::npos;
  for (const std::string& stop : stop_strings_) stop_at = std::min(stop_at, text.find(stop, n_final_));
  if (stop_at != std::string_view::npos) {
    stopped_ = true;
    return take(text, stop_at);
  }
  // An unfinished character may yet become the one with which a stop string goes on.
  const std::string_view settled = text.substr(0, without_unfinished_characters(text));
  size_t end = settled.size();
  for (const std::string& stop : stop_strings_) {
    end = std::min({end, possible_stop(text, stop), possible_stop(settled, stop)});
  }
  return take(text, end);
}

std::string TextStream::finish(std::string_view text) {
  std::string last = advance(text);
  if (stopped_) return last;
  return last + take(text, text.size());
}

}  // namespace squeeze
