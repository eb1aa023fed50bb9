// The lookup for blocks of query tokens (question prefill): one selection per block and KV head.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda {

// Scores as lookup.hpp, by their mean over the tokens of a block and the query heads of a KV head. All pointers are
// device memory. A work is one KV head of one block of tokens, as in attend_prefill.hpp.
struct BlockLookupArgs {
  const float* queries;  // [n_queries, n_query_heads, head_dim]; rounded to dtype
  int n_queries;
  int n_query_heads;
  int n_kv_heads;
  int head_dim;  // 64, 96, 128 or 256
  float scale;
  DType dtype;  // of the centroids: f16 or bf16
  int block_tokens;

  // The leaves.
  const void* centroids;         // [n_kv_heads, n_clusters, head_dim], 16-byte aligned
  const int32_t* first_row;      // [n_kv_heads, n_clusters + 1]
  int n_clusters;                // of the head that has most; the arrays' stride
  const int32_t* n_clusters_of;  // [n_kv_heads]

  // The rule, the rows that are kept and the clusters that are not, as in lookup.hpp.
  float threshold;
  int max_keys;
  int n_sinks, n_window, n_tokens;
  int32_t* kept;  // [n_works, kept_stride]
  int64_t kept_stride;
  int32_t* n_kept;  // [n_works]
  int32_t* rest;    // [n_works, rest_stride]; null: not wanted
  int64_t rest_stride;
  int32_t* n_rest;  // [n_works]

  void* workspace;  // block_lookup_workspace_bytes
};

size_t block_lookup_workspace_bytes(int n_queries, int n_query_heads, int n_kv_heads, int block_tokens, int n_clusters);

// Throws std::invalid_argument for sizes that it does not support.
void block_lookup(const BlockLookupArgs& args, Stream stream);

}  // namespace squeeze::cuda
