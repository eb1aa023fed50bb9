// squeeze-inspect --verify --device cuda: whether a device attends over an index as the CPU does.
#pragma once

#include <string>
#include <vector>

#include "tools/recorded_queries.hpp"

namespace squeeze {

struct CheckedLaw {
  std::string law;
  std::vector<std::string> violations;
};

// Recorded queries of the window, each as the next token of an empty tail, over all layers: dense attention as on the
// CPU, a full budget with the bits of dense attention, sparsities and a budget that keep as much and are as near dense
// attention as on the CPU, the same bits again. Throws if the device cannot hold the index.
std::vector<CheckedLaw> verify_on_device(const ReplaySource& source);

}  // namespace squeeze
