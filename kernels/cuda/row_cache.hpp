// A cache in device memory for rows of a context whose keys and values lie in the host's memory: what a lookup chose is
// brought over the bus once, and stays as long as it is chosen again. Slots are given away by second chance (Corbato's
// clock): a hand passes over them, and takes those that were not read since it last did.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_memory.hpp"

namespace squeeze::cuda {

// All pointers are device memory but for keys and values, which kernels read over the bus. A work reads KV head
// w % n_kv_heads, as in attend_decode.hpp.
struct RowCacheArgs {
  // What is about to be read.
  const int32_t* rows;  // [n_works, rows_stride], of a work all different; null: rows 0, 1, 2, ...
  int64_t rows_stride;
  const int32_t* n_rows;  // [n_works]
  int n_works, n_kv_heads;

  const void* keys;  // [n_kv_heads, n_tokens, row_bytes], 16-byte aligned, as all rows
  const void* values;
  int64_t n_tokens;
  int row_bytes;  // a multiple of 16

  void* cached_keys;  // [n_kv_heads, n_slots, row_bytes]
  void* cached_values;
  int n_slots;

  // An empty cache: 0xff bytes, then zeros.
  int32_t* slot_of;  // [n_kv_heads, n_tokens] where a row's copy is; negative: nowhere
  int32_t* row_of;   // [n_kv_heads, n_slots] the row of a slot; negative: empty
  int32_t* used;     // [n_kv_heads, n_slots] twice the call that read it last, plus 1 until the hand passes
  int32_t* clock;    // [n_kv_heads, 2] calls so far, and the hand

  int32_t* n_copied;    // [n_works] rows that this call copied; for the first work of those that read them
  int32_t* n_in_place;  // [n_works] rows that found no slot, since this call reads all others: to be read over the bus
  void* workspace;      // row_cache_workspace_bytes
};

size_t row_cache_workspace_bytes(int n_kv_heads, int n_slots);

// Rows that are not cached are copied, work by work in the order of their lists. No row that this call reads makes
// room. Throws std::invalid_argument for sizes that it does not support.
void cache_rows(const RowCacheArgs& args, Stream stream);

}  // namespace squeeze::cuda
