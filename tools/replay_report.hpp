// Replay of recorded queries over a whole index: what squeeze-inspect and squeeze-run print.
#pragma once

#include <vector>

#include "formats/kv_index.hpp"
#include "lib/eval/replay.hpp"

namespace squeeze {

// Throws unless the dump and the index come from the same model and text.
void check_same_context(const KvIndex& index, const KvDump& dump);

// The recorded queries that see every clustered token: of the dump's last window, or of its probe questions.
struct ReplaySource {
  const KvIndex& index;
  const KvDump& dump;
  bool probes = false;
  int64_t block_size = 1;
  int64_t n_probes = 0;  // the first ones; 0: all
};

// [n_layers][n_kv_heads]
std::vector<std::vector<HeadMetrics>> replay_heads(const ReplaySource& source, const Policy& policy, Rest rest);
HeadMetrics pooled(const std::vector<HeadMetrics>& heads);
HeadMetrics pooled(const std::vector<std::vector<HeadMetrics>>& layers);

// Attention over the context alone, all layers, per query token as in decoding; medians of several passes.
struct ReplayTimes {
  double sparse_ms = 0, dense_ms = 0;
  double bytes_read = 0, bytes_dense = 0;  // per token
};
ReplayTimes time_replay(const ReplaySource& source, const Policy& policy, Rest rest);

}  // namespace squeeze
