// A trial in a child process, for code that a damaged file may crash.
#pragma once

#include <functional>
#include <string>

namespace squeeze {

// Runs `body` in a child process first, and throws an Error that calls `path` damaged if the child crashes or takes
// longer than ten minutes. What `body` returns, changes or throws is lost: the caller does the same again. `body` must
// not start threads.
void try_in_child(const std::string& path, const std::function<void()>& body);

}  // namespace squeeze
