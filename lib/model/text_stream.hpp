// Generated text as it grows: what of it is final, and where a stop string ends it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace squeeze {

class TextStream {
 public:
  // Throws on an empty stop string.
  explicit TextStream(std::vector<std::string> stop_strings);

  // `text`: all that has been decoded so far. Returns the part that has become final: without what a stop string may
  // begin with, and without trailing U+FFFD, which stand for characters whose bytes have not all been decoded.
  std::string advance(std::string_view text);
  // No more text will come: returns the rest.
  std::string finish(std::string_view text);

  bool stopped() const { return stopped_; }    // a stop string was found; what follows it is ignored
  size_t n_bytes() const { return n_final_; }  // of final text

 private:
  std::string take(std::string_view text, size_t end);

  std::vector<std::string> stop_strings_;
  size_t n_final_ = 0;
  bool stopped_ = false;
};

}  // namespace squeeze
