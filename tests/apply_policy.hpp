// One selection by a policy.
#pragma once

#include "lib/attention/lookup_scratch.hpp"
#include "lib/attention/policy.hpp"

namespace squeeze {

inline Selection apply(const Policy& policy, int layer, int kv_head, const HeadView& head, TensorView queries,
                       int64_t n_query_tokens) {
  LookupScratch scratch;
  return policy(layer, kv_head, head, queries, n_query_tokens, scratch);
}

}  // namespace squeeze
