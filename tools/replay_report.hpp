// Replay of recorded queries over a whole index: what squeeze-inspect and squeeze-run print.
#pragma once

#include <vector>

#include "lib/eval/replay.hpp"
#include "tools/chosen_attention.hpp"
#include "tools/recorded_queries.hpp"

namespace squeeze {

using LayerMetrics = std::vector<std::vector<HeadMetrics>>;  // [n_layers][n_kv_heads]

// Per rule; dense attention is computed once for all of them.
std::vector<LayerMetrics> replay_rules(const ReplaySource& source, std::span<const ReplayRule> rules);
LayerMetrics replay_heads(const ReplaySource& source, const Policy& policy, Rest rest);
HeadMetrics pooled(const std::vector<HeadMetrics>& heads);
HeadMetrics pooled(const LayerMetrics& layers);

// Attention over the context alone, all layers, per query token as in decoding, on the CPU or a device; medians of
// several passes.
struct ReplayTimes {
  double sparse_ms = 0, dense_ms = 0;
  double bytes_read = 0, bytes_dense = 0;  // per token
};
ReplayTimes time_replay(const ReplaySource& source, Operations& operations, const AttentionMaker& maker);

}  // namespace squeeze
