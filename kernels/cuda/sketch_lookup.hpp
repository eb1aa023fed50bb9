// The last stage of a lookup: the keys of the leaves that were kept, told apart by their sketches
// (lib/index/sketch.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_memory.hpp"

namespace squeeze::cuda {

// All pointers are device memory; works, queries and clusters as in lookup.hpp, whose results come in here.
struct SketchLookupArgs {
  const float* queries;  // [n_works, group, head_dim]
  int n_works;
  int n_kv_heads;
  int group;     // at most 16
  int head_dim;  // 64, 96, 128 or 256
  float scale;

  // The codebooks: 16 entries for every group_dim dimensions, integers times steps.
  int group_dim;           // 2, 4 or 8
  const int32_t* dims;     // [n_kv_heads, head_dim] of the head, group by group
  const int8_t* entries;   // [n_kv_heads, head_dim / group_dim, 16, group_dim]
  const float* steps;      // [n_kv_heads, head_dim], as dims
  const float* error;      // [n_kv_heads] squared miss of a code per dimension, per squared scale
  const uint8_t* codes;    // [n_kv_heads, n_clustered, head_dim / group_dim / 2]
  const uint16_t* scales;  // f16 [n_kv_heads, n_clustered]
  int64_t n_clustered;

  // The leaves that lookup() kept (it wrote their numbers, given first_child 0, 1, 2, ...).
  const int32_t* first_row;  // [n_kv_heads, n_clusters + 1]
  int n_clusters;
  const int32_t* leaves;  // [n_works, leaves_stride], ascending
  int64_t leaves_stride;
  const int32_t* n_leaves;      // [n_works]
  const float* cluster_logits;  // [n_works, group, n_clusters]
  const float* top_logits;      // [n_works, group]
  const float* dropped;         // [n_works, group, 2]

  // The rule, one of three; the first that is set:
  //   by_threshold  keys whose score (lookup.hpp; the sum runs over the candidates and what was dropped before) is
  //   above
  //                 `threshold`. Weights are rounded to bf16: a score is within 2^-8 of its own size
  //   max_keys_of   the best keys by score, that many
  //   bytes         the best keys by score, as many as what the sketches leave of the bytes pays for:
  //                 (bytes - n_candidates * sketch_bytes) / key_bytes
  // Of the best keys, scores that lie in the same 32nd of an octave count as equal; the lower row first.
  int max_heads = 1;  // as lookup.hpp
  bool by_threshold = false;
  float threshold = 0;
  const int32_t* max_keys_of = nullptr;  // [n_kv_heads], or null
  int64_t bytes = 0;
  const int64_t* bytes_of = nullptr;  // [n_kv_heads] in place of bytes; null: bytes
  int sketch_bytes, key_bytes;

  // Sinks, the kept rows and window, ascending.
  int n_sinks, n_window, n_tokens;
  int32_t* rows;  // [n_works, rows_stride]
  int64_t rows_stride;
  int32_t* n_rows;                  // [n_works]
  int32_t* n_candidates = nullptr;  // [n_works], keys whose sketches were read; null: not wanted

  // What the leaves lost: behind the n_rest entries of lookup(), one per leaf of the list; a logit of -infinity for a
  // leaf that lost nothing. rest null: not wanted. The logit: log of the sum of exp(estimate) over the keys dropped,
  // and what the misses of the codes add to it (as lib/attention/key_stage.hpp).
  int32_t* rest;       // [n_works, rest_stride]
  float* rest_logits;  // [n_works, group, rest_stride]
  int64_t rest_stride;
  int rest_offset;
  const int32_t* n_rest;  // [n_works]
  int32_t* n_rest_out;    // [n_works]; not n_rest

  void* workspace;  // sketch_lookup_workspace_bytes
};

size_t sketch_lookup_workspace_bytes(int n_works, int group, int64_t n_clustered, int n_clusters);

// Throws std::invalid_argument for sizes that it does not support.
void sketch_lookup(const SketchLookupArgs& args, Stream stream);

}  // namespace squeeze::cuda
