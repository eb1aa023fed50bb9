// The oracle: the best that any choice of a number of keys can keep of the attention. An ideal, not a method.
#pragma once

#include "lib/attention/policy.hpp"

namespace squeeze {

// The `keys` clustered keys (see key_count) with the largest attention probability among the clustered keys, averaged
// over the rows of the block (query tokens x heads of the group): no selection of as many keys has a larger kept mass.
// It reads every key to find them, and counts none of that: its budget is what a perfect index of no size would have.
Policy oracle_policy(double keys, float softmax_scale);

}  // namespace squeeze
