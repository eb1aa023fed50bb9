// Counting what a lookup reads.
#include "lib/attention/usage.hpp"

namespace squeeze {
namespace {

int64_t row_bytes(TensorView rows) { return rows.size(1) * static_cast<int64_t>(size_of(rows.dtype())); }

}  // namespace

void Usage::add(const Usage& other) {
  n_lookups += other.n_lookups;
  keys_selected += other.keys_selected;
  keys_clustered += other.keys_clustered;
  bytes_read += other.bytes_read;
  bytes_dense += other.bytes_dense;
  lookup_ms += other.lookup_ms;
  attention_ms += other.attention_ms;
}

Usage usage_of(const HeadView& head, const Selection& selection, Rest rest) {
  const int64_t kv_bytes = row_bytes(head.keys) + row_bytes(head.values);
  Usage usage;
  usage.n_lookups = 1;
  usage.keys_selected = selection.n_keys;
  usage.keys_clustered = head.n_clustered();
  usage.bytes_read = (head.n_sinks + head.n_window + selection.n_keys) * kv_bytes + selection.index_bytes;
  usage.bytes_dense = head.n_tokens() * kv_bytes;
  if (head.levels.empty()) return usage;
  const LevelView& level = head.levels.front();
  usage.bytes_read += selection.n_scored * (row_bytes(level.centroids) + static_cast<int64_t>(sizeof(int32_t)));
  if (rest == Rest::mean) {
    usage.bytes_read += static_cast<int64_t>(selection.dropped.size()) * row_bytes(level.value_means);
  }
  return usage;
}

}  // namespace squeeze
