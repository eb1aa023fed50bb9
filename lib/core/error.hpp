// The one exception type of the project, and `fail`, which throws it with a formatted message.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

namespace squeeze {

// Says which file or option, what was expected, what was found and what to do. Only the main wrapper catches it.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace squeeze
