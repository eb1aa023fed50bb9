// While a graph is recorded: what would not be part of it, or would end the recording, is refused by name.
#pragma once

#include <stdexcept>
#include <string>

namespace squeeze::cuda {

inline thread_local bool recording_graph = false;  // by this thread

inline void refuse_while_recording(const char* what) {
  if (recording_graph) throw std::logic_error(std::string("CUDA: ") + what + " while a graph is recorded");
}

class Recording {
 public:
  Recording() { recording_graph = true; }
  ~Recording() { recording_graph = false; }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
};

}  // namespace squeeze::cuda
