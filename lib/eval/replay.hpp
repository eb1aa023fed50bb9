// Replay of recorded queries: what a policy keeps of the true attention, per layer and KV head.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/attention/context_attention.hpp"
#include "lib/eval/query_blocks.hpp"

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

struct ReplayRule {
  Policy policy;
  Rest rest = Rest::drop;
};

// [n_rules][n_kv_heads]. block_size: query tokens per selection. Dense attention is computed in float32 by the same
// kernels, in short sums, once for all rules. Deterministic for any number of threads. Throws as QueryBlocks does.
std::vector<std::vector<HeadMetrics>> replay_layer(int layer, const std::vector<HeadView>& heads,
                                                   const RecordedQueries& recorded, std::span<const ReplayRule> rules,
                                                   float softmax_scale, int64_t block_size);

// One rule: [n_kv_heads].
std::vector<HeadMetrics> replay_layer(int layer, const std::vector<HeadView>& heads, const RecordedQueries& recorded,
                                      const Policy& policy, Rest rest, float softmax_scale, int64_t block_size);

}  // namespace squeeze
