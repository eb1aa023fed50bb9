// Which tokens of the context a policy keeps, over all lookups of a layer.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/attention/policy.hpp"
#include "lib/eval/query_blocks.hpp"

namespace squeeze {

struct KeptTokens {
  int64_t n_lookups = 0;        // one lookup = one layer, KV head and query block
  std::vector<int64_t> n_kept;  // [n_tokens], lookups that read the token; pinned tokens are read by all

  void add(const KeptTokens& other);  // of another layer of the same context
};

// Of one layer. Attention is not computed. Throws as QueryBlocks does.
KeptTokens count_kept_tokens(int layer, const std::vector<HeadView>& heads, const RecordedQueries& recorded,
                             const Policy& policy, int64_t block_size);

}  // namespace squeeze
