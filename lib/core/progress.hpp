// Progress of long work: the library reports steps, the tool decides whether and how to show them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace squeeze {

struct ProgressStep {
  std::string what;  // "layer 3/32"
  int64_t done = 0;  // of `total`, in the unit of the work (tokens, rows)
  int64_t total = 0;
};

// Called from one thread at a time, cheaply and often; may throw to stop the work (Ctrl-C).
using Progress = std::function<void(const ProgressStep&)>;

}  // namespace squeeze
