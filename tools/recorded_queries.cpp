// Cuts recorded queries to those that an index can replay.
#include "tools/recorded_queries.hpp"

#include <algorithm>
#include <utility>

#include "lib/core/error.hpp"

namespace squeeze {

void check_same_context(const KvIndex& index, const KvDump& dump) {
  if (index.context().model.model_fingerprint != dump.context().model.model_fingerprint) {
    fail("{}: comes from another model than {} (fingerprints {} and {})", dump.path(), index.path(),
         dump.context().model.model_fingerprint, index.context().model.model_fingerprint);
  }
  if (index.context().tokens != dump.context().tokens) {
    fail("{}: holds another text than {} ({} and {} tokens); use the dump that the index was built from", dump.path(),
         index.path(), dump.context().n_tokens(), index.context().n_tokens());
  }
}

ProbeRange replayed_probes(const ReplaySource& source) {
  const int n_probes = source.dump.n_probes();
  if (n_probes == 0) fail("{}: holds no probe questions; dump with --probes", source.dump.path());
  if (source.index.calibration().source != "probes") return {0, n_probes};
  const std::span<const int32_t> positions = source.index.query_positions();
  const auto n_tokens = static_cast<int32_t>(source.index.context().n_tokens());
  const auto n_used = static_cast<int>(std::count(positions.begin(), positions.end(), n_tokens));  // their first tokens
  if (n_used > n_probes) {
    fail("{}: holds {} probe questions, but {} calibrated {}; use the dump that the index was built from",
         source.dump.path(), n_probes, n_used, source.index.path());
  }
  if (source.calibrating) return {0, n_used};
  return {n_used < n_probes ? n_used : 0, n_probes};
}

LayerQueries window_queries(const ReplaySource& source, int layer) {
  const KvLayerView kv = source.dump.layer(layer);
  const std::span<const int32_t> all = source.dump.query_positions();
  const int64_t first = source.index.context().n_tokens() - source.index.options().n_window;
  const auto begin = std::lower_bound(all.begin(), all.end(), first) - all.begin();
  if (begin == std::ssize(all)) {
    fail("{}: no recorded query lies in the index's window of {} tokens; dump with a larger --window",
         source.dump.path(), source.index.options().n_window);
  }
  return {slice_dim1(kv.queries, begin, std::ssize(all)), {all.begin() + begin, all.end()}, {}, {}};
}

LayerQueries probe_queries(const ReplaySource& source, int layer, int probe) {
  const KvLayerView kv = source.dump.probe_layer(probe, layer);
  LayerQueries probed{slice_dim1(kv.queries, 0, kv.queries.size(1)), {}, kv.keys, kv.values};
  const auto n_tokens = static_cast<int32_t>(source.index.context().n_tokens());
  for (int32_t i = 0; i < kv.queries.size(1); ++i) probed.positions.push_back(n_tokens + i);
  return probed;
}

std::vector<LayerQueries> replay_queries(const ReplaySource& source, int layer) {
  std::vector<LayerQueries> recorded;
  if (!source.probes) {
    recorded.push_back(window_queries(source, layer));
    return recorded;
  }
  const auto [first, last] = replayed_probes(source);
  for (int probe = first; probe < last; ++probe) recorded.push_back(probe_queries(source, layer, probe));
  return recorded;
}

}  // namespace squeeze
