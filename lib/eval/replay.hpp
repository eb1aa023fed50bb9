// Replay of recorded queries: what a policy keeps of the true attention, per layer and KV head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/attention/context_attention.hpp"

namespace squeeze {

// Averages over query rows (query tokens x query heads of the group) unless said otherwise.
struct HeadMetrics {
  Usage usage;              // budget, sparsity, bytes; times are summed over lookups, which run in parallel
  double dense_ms = 0;      // of the same rows by dense attention, beside usage.attention_ms
  double kept_mass = 0;     // attention mass on the clustered tokens that was kept, over all mass on clustered tokens
  double topk_recall = 0;   // share of the true top-k clustered keys kept, k = keys selected by the policy, at least 1
  double output_error = 0;  // |sparse - dense| / |dense|, root of summed squares over query rows
  int64_t n_rows = 0;       // query rows measured

  // error and norm sums, so that heads and layers can be pooled
  double error_squares = 0;
  double dense_squares = 0;
  void add(const HeadMetrics& other);  // pools by n_rows
};

struct RecordedQueries {
  TensorView queries;                  // [n_query_heads, n_queries, head_dim]
  std::span<const int32_t> positions;  // [n_queries] token positions, all >= the last clustered token
  // [n_kv_heads, n_tail, head_dim], the recorded question's own: the tokens from the context's end on. May be empty:
  // then queries after the context see the context only.
  TensorView tail_keys, tail_values;
};

// Per KV head. block_size: query tokens per selection. Dense attention is computed in float32 by the same kernels, in
// short sums. Deterministic for any number of threads. Throws if shapes do not fit, or a query does not see all
// clustered tokens.
std::vector<HeadMetrics> replay_layer(int layer, const std::vector<HeadView>& heads, const RecordedQueries& recorded,
                                      const Policy& policy, Rest rest, float softmax_scale, int64_t block_size);

}  // namespace squeeze
