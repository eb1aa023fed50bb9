// The queries of a dump that a replay can use: those that see every clustered token of an index.
#pragma once

#include <vector>

#include "formats/kv_index.hpp"
#include "lib/eval/query_blocks.hpp"

namespace squeeze {

// Throws unless the dump and the index come from the same model and text.
void check_same_context(const KvIndex& index, const KvDump& dump);

struct ReplaySource {
  const KvIndex& index;
  const KvDump& dump;
  bool probes = false;       // replay the dump's probe questions, not its last window
  int64_t block_size = 1;    // query tokens of a lookup
  bool calibrating = false;  // probes: those that calibrated the index, not those that were held out
};

// The probes [first, last) of the dump that are replayed: if the first n calibrated the index and there are more, the
// others; else all. Throws if the dump holds none.
struct ProbeRange {
  int first = 0, last = 0;
};
ProbeRange replayed_probes(const ReplaySource& source);

// Queries of one layer; they hold what the view borrows, apart from the dump.
struct LayerQueries {
  Tensor queries;  // [n_query_heads, n_queries, head_dim]
  std::vector<int32_t> positions;
  TensorView tail_keys, tail_values;  // of a probe question

  RecordedQueries view() const { return {queries, positions, tail_keys, tail_values}; }
};

// Those at positions inside the index's window. Throws if there are none.
LayerQueries window_queries(const ReplaySource& source, int layer);
LayerQueries probe_queries(const ReplaySource& source, int layer, int probe);
// What is to be replayed: the window, or every probe. Throws if probes are asked for and there are none.
std::vector<LayerQueries> replay_queries(const ReplaySource& source, int layer);

}  // namespace squeeze
