// Attention of many query tokens: over what blocks of them selected of an indexed context, and causally over the tail.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda {

// Softmax attention over the union of three parts, each of which may be empty. All pointers are device memory; keys,
// values, centroids and value means have rows of head_dim, 16-byte aligned. A work is one KV head of
// one block of block_tokens query tokens (the last block may be shorter), a block's heads together: what it reads of
// the context serves all its tokens and all query heads of the KV head.
struct AttendPrefillArgs {
  const float* queries;  // [n_queries, n_query_heads, head_dim]; rounded to 16 bits
  int n_queries;
  int n_query_heads;
  int n_kv_heads;
  int head_dim;  // 64, 96, 128 or 256
  float scale;
  DType dtype;                        // of keys and values: f16 or bf16, or i8, a row of it times its scale
  DType float_type = DType::bf16;     // f16 or bf16: of all others if dtype is i8, else as dtype
  const float* key_scales = nullptr;  // [n_kv_heads, n_tokens] if i8, else null
  const float* value_scales = nullptr;
  int block_tokens;

  // Rows of the context.
  const void* keys;  // [n_kv_heads, n_tokens, head_dim]
  const void* values;
  int64_t n_tokens;
  const int32_t* rows;  // [n_works, rows_stride]; null: rows 0, 1, 2, ...
  int64_t rows_stride;
  const int32_t* n_rows;  // [n_works]; null: none

  // The tail: query token i sees its rows below n_tail_before + i + 1.
  const void* tail_keys;  // [n_kv_heads, tail_capacity, head_dim]; null: no tail
  const void* tail_values;
  int64_t tail_capacity;
  int n_tail_before;

  // Dropped clusters, as if each were a key, its centroid, with log N_i added to the logit.
  const void* centroids;    // [n_kv_heads, n_clusters, head_dim]
  const void* value_means;  // [n_kv_heads, n_clusters, head_dim]
  int64_t n_clusters;
  const int32_t* rest;     // [n_works, rest_stride] clusters
  const float* log_sizes;  // [n_kv_heads, n_clusters]
  int64_t rest_stride;
  const int32_t* n_rest;  // [n_works]; null: none

  float* out;       // [n_queries, n_query_heads, head_dim]; zeros where there is nothing to attend to
  void* workspace;  // attend_prefill_workspace_bytes, zero before the first call; a call leaves it fit for the next
};

size_t attend_prefill_workspace_bytes(int n_queries, int n_query_heads, int n_kv_heads, int head_dim, int block_tokens);

// Throws std::invalid_argument for sizes that it does not support.
void attend_prefill(const AttendPrefillArgs& args, Stream stream);

}  // namespace squeeze::cuda
