// The budget: bytes and keys that lookups read of a context, index bytes included.
#pragma once

#include <cstdint>

#include "lib/attention/lookup.hpp"

namespace squeeze {

// Bytes and keys read, summed over lookups (one lookup = one layer, KV head and query block).
struct Usage {
  int64_t n_lookups = 0;
  int64_t keys_selected = 0;   // clustered keys read
  int64_t keys_clustered = 0;  // clustered keys there are
  int64_t bytes_read = 0;      // K and V of pinned and selected rows, centroids scored, value means of dropped clusters
  int64_t bytes_from_host = 0;  // of bytes_read, K and V that a device read from the host's memory
  int64_t bytes_cached = 0;  // of bytes_read, K and V that lie there, but were read lately and are on the device still
  int64_t bytes_dense = 0;   // the context's whole K and V
  double lookup_ms = 0;      // wall time, summed over layers
  double attention_ms = 0;

  double budget() const { return bytes_dense ? double(bytes_read) / double(bytes_dense) : 0; }
  double kept() const { return keys_clustered ? double(keys_selected) / double(keys_clustered) : 0; }
  double sparsity() const { return keys_clustered ? 1 - kept() : 0; }
  void add(const Usage& other);
};

// What is read of one KV head: a key and its value, with their scales if they are i8; all pinned rows; a centroid that
// is scored, with its row bounds; a value mean.
int64_t kv_bytes(const HeadView& head);
int64_t pinned_bytes(const HeadView& head);
int64_t centroid_bytes(const LevelView& level);
int64_t mean_bytes(const LevelView& level);

// The bytes of one lookup, index bytes included.
Usage usage_of(const HeadView& head, const Selection& selection, Rest rest);

}  // namespace squeeze
