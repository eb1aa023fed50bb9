// The window baseline: sinks and the most recent tokens, whatever the query (StreamingLLM, arXiv 2309.17453).
#pragma once

#include "lib/attention/policy.hpp"

namespace squeeze {

// The last `keys` tokens of the clustered part, by token order, beside the pinned ones: a longer window. keys: see
// key_count. Reads nothing to select.
Policy window_policy(double keys);

}  // namespace squeeze
