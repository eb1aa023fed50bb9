// Attention of one token per request, or of a few, over rows of an indexed context, its tail and what was dropped.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda {

inline constexpr int kMaxGroup = 16;             // query heads per KV head
inline constexpr int kMostCachedRows = 1 << 30;  // of a KV head, that may have copies

// Softmax attention of `group` query heads over the union of three parts, each of which may be empty. All pointers are
// device memory; keys, values and value means have rows of head_dim, 16-byte aligned. Counts are read
// on the device, so that a captured graph can be replayed as they change.
struct AttendDecodeArgs {
  const float* queries;  // [n_works, group, head_dim]; a work is one KV head of one request, a request's together
  int n_works;
  int n_kv_heads;           // work w reads KV head w % n_kv_heads
  int group;                // query rows of a work, at most kMaxGroup
  int heads_per_token = 0;  // query heads of one token: a work's rows are token by token; 0: group (one token)
  int head_dim;             // 64, 96, 128 or 256
  float scale;
  DType dtype;                        // of keys and values: f16 or bf16, or i8, a row of it times its scale
  DType float_type = DType::bf16;     // f16 or bf16: of the tail and the value means if dtype is i8, else as dtype
  const float* key_scales = nullptr;  // [n_kv_heads, n_tokens] if i8, else null
  const float* value_scales = nullptr;

  // Rows of the context.
  const void* keys;    // [n_kv_heads, n_tokens, head_dim]
  const void* values;  // [n_kv_heads, n_tokens, head_dim]
  int64_t n_tokens;
  const int32_t* rows;  // [n_works, rows_stride]; null: rows 0, 1, 2, ...
  int64_t rows_stride;
  const int32_t* n_rows;  // [n_works]

  // Copies of some of these rows (row_cache.hpp), which are read in their place: keys and values, not the scales.
  const int32_t* slot_of = nullptr;  // [n_kv_heads, n_tokens] where a row's copy is; negative: nowhere. null: no copies
  const void* cached_keys = nullptr;  // [n_kv_heads, n_slots, head_dim]
  const void* cached_values = nullptr;
  int64_t n_slots = 0;

  // The tail: token t of a work sees the first n_tail + t rows.
  const void* tail_keys;  // [n_tails, tail_capacity, head_dim]
  const void* tail_values;
  int64_t tail_capacity;
  const int32_t* n_tail;                      // [n_works]; null: no tail
  int n_tails = 0;                            // work w reads tail w % n_tails; 0: n_works
  const void* const* tail_keys_of = nullptr;  // [n_tails], instead of tail_keys: the rows of each tail; else null
  const void* const* tail_values_of = nullptr;

  // Dropped clusters, at their value means with given logits (log N_i + s q·C_i).
  const void* value_means;  // [n_kv_heads, n_clusters, head_dim]
  int64_t n_clusters;
  const int32_t* rest;       // [n_works, rest_stride] clusters
  const float* rest_logits;  // [n_works, group, rest_stride]
  int64_t rest_stride;
  const int32_t* n_rest;  // [n_works]; null: none

  float* out;       // [n_works, group, head_dim]; zeros where there is nothing to attend to
  float* lse;       // [n_works, group], or null
  void* workspace;  // attend_decode_workspace_bytes, zero before the first call; fit for the next of n_works
};

size_t attend_decode_workspace_bytes(int n_works, int group, int head_dim);

// Throws std::invalid_argument for sizes that it does not support.
void attend_decode(const AttendDecodeArgs& args, Stream stream);

}  // namespace squeeze::cuda
