// The attention that the options name, and dense attention beside it, on the CPU or on a CUDA device.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "lib/model/operations.hpp"
#include "tools/policy_options.hpp"
#include "tools/tool.hpp"

namespace squeeze {

// Over one context, which outlives them.
struct ChosenAttention {
  std::vector<std::unique_ptr<TailAttention>> chosen;  // one per request that is answered at a time
  std::unique_ptr<TailAttention> dense;                // reads everything
};
using AttentionMaker = std::function<ChosenAttention(Operations&, const ContextView&, size_t n_chosen)>;

// Throws (bad usage) at once if the options name what the index or the device does not have; the context is copied to a
// device when the result is called, with its operations.
AttentionMaker attention_maker(const PolicyOptions& options, const KvIndex& index, const CommonOptions& common);

}  // namespace squeeze
