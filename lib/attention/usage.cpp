// Counting what a lookup reads.
#include "lib/attention/usage.hpp"

namespace squeeze {

void Usage::add(const Usage& other) {
  n_lookups += other.n_lookups;
  keys_selected += other.keys_selected;
  keys_clustered += other.keys_clustered;
  bytes_read += other.bytes_read;
  bytes_from_host += other.bytes_from_host;
  bytes_cached += other.bytes_cached;
  bytes_dense += other.bytes_dense;
  lookup_ms += other.lookup_ms;
  attention_ms += other.attention_ms;
}

int64_t kv_bytes(const HeadView& head) { return head.key_rows().row_bytes() + head.value_rows().row_bytes(); }

int64_t pinned_bytes(const HeadView& head) { return (head.n_sinks + head.n_window) * kv_bytes(head); }

int64_t centroid_bytes(const LevelView& level) {
  return level.centroid_rows().row_bytes() + static_cast<int64_t>(sizeof(int32_t));
}

int64_t mean_bytes(const LevelView& level) { return level.value_rows().row_bytes(); }

Usage usage_of(const HeadView& head, const Selection& selection, Rest rest) {
  Usage usage;
  usage.n_lookups = 1;
  usage.keys_selected = selection.n_keys;
  usage.keys_clustered = head.n_clustered();
  usage.bytes_read = pinned_bytes(head) + selection.n_keys * kv_bytes(head) + selection.index_bytes;
  usage.bytes_dense = head.n_tokens() * kv_bytes(head);
  if (head.levels.empty()) return usage;
  const LevelView& level = head.levels.front();
  usage.bytes_read += selection.n_scored * centroid_bytes(level);
  if (rest == Rest::mean) usage.bytes_read += std::ssize(selection.dropped) * mean_bytes(level);
  return usage;
}

}  // namespace squeeze
