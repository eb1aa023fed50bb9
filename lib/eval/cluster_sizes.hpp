// How large the clusters of an index are.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/attention/context_attention.hpp"

namespace squeeze {

// Clusters of `from` to `to` keys, over all layers and KV heads.
struct SizeBin {
  int64_t from = 0;
  int64_t to = 0;
  int64_t n_clusters = 0;
  int64_t n_keys = 0;
};

// The leaves, in bins that double (1, 2-3, 4-7, ...) up to the largest leaf; none if there are no clusters.
std::vector<SizeBin> leaf_sizes(const ContextView& context);

}  // namespace squeeze
