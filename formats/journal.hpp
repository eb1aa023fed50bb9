// The journal of a partial file: how many steps are done, and a tensor to continue from. Replaced atomically.
#pragma once

#include <optional>
#include <string>

#include "lib/core/tensor.hpp"

namespace squeeze {

struct Journal {
  int n_steps_done = 0;
  Tensor state;  // empty: none
};

// Throws if the file exists but is no whole journal of a version that is known.
std::optional<Journal> read_journal(const std::string& path);

// Written aside, flushed to the disk, renamed to `path`.
void write_journal(const std::string& path, int n_steps_done, TensorView state);
void remove_journal(const std::string& path);

}  // namespace squeeze
