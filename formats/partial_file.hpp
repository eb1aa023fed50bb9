// A large file that appears under its name only when it is whole: NAME.partial until then, beside a journal
// (NAME.partial.state) that says how many of its steps (layers) are done, so that a killed run can be continued.
// Destroyed before finish(), it leaves both.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "formats/raw_io.hpp"
#include "lib/core/tensor.hpp"

namespace squeeze {

struct WriteMode {
  bool force = false;   // replace an existing file
  bool resume = false;  // continue NAME.partial after its last whole layer, if there is one
};

class PartialFile {
 public:
  // Unless a partial file is continued, calls create(NAME.partial), which writes it at its final size, and reserves its
  // disk space. Throws if NAME exists (without force), if another process is writing it, or if the disk is too full.
  PartialFile(const std::string& path, int n_steps, WriteMode mode,
              const std::function<void(const std::string&)>& create);

  const std::string& partial_path() const { return partial_path_; }
  bool resumed() const { return resumed_; }
  int n_steps_done() const { return n_steps_done_; }
  // What the last end_step of the run that was continued was given; without data if nothing was.
  Tensor state() const { return state_.data() ? state_.clone() : Tensor(); }

  // Before anything of a step is written: steps go in order, but may start again from an earlier one.
  void begin_step(int step);
  void write(uint64_t offset, const void* data, size_t n_bytes);  // inside the file's size
  // The step's bytes are on the disk when the journal says so. `state` may be empty.
  void end_step(int step, TensorView state);
  void finish();  // renames to NAME and removes the journal; throws if a step is missing

 private:
  void open_and_lock();
  void start(const std::function<void(const std::string&)>& create);
  void publish();

  std::string path_;
  std::string partial_path_;
  std::string journal_path_;
  int n_steps_;
  bool force_;
  FileDescriptor fd_;
  uint64_t n_bytes_ = 0;
  bool resumed_ = false;
  int n_steps_done_ = 0;
  Tensor state_;
};

}  // namespace squeeze
