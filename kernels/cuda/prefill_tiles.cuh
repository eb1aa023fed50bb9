// The tiles of keys that the queries of one work of attend_prefill.cu go through.
#pragma once

#include "kernels/cuda/attend_prefill.hpp"
#include "kernels/cuda/attend_state.cuh"

namespace squeeze::cuda {

inline constexpr int kPrefillWarps = 8;
inline constexpr int kPrefillThreads = kPrefillWarps * kWarpSize;
inline constexpr int kPrefillRows = kPrefillWarps * 16;  // query rows of a block of threads

// kByteRows: as DecodeConfig.
template <class TElement, bool kByteRows, int kHeadDim>
struct PrefillConfig {
  using T = TElement;
  static constexpr int kDim = kHeadDim;
  static constexpr bool kSplit = false;
  static constexpr bool kBytes = kByteRows;
  static constexpr int kRun = kBytes ? 4 : 2;
  static constexpr bool kQueriesShared = false;
  static constexpr int kTileKeys = kDim > 128 ? 32 : 64;
  static constexpr int kKeyTiles = kTileKeys / 8;
  static constexpr int kStages = 2;
  static constexpr int kStride = kDim + 8;  // elements of a row in shared memory: eight rows hit different banks
  using Bytes = ByteRows<kDim + 16>;
  // Keys, values; of bytes their scales.
  static constexpr int kStageElements = 2 * kTileKeys * (kStride + (kBytes ? 2 : 0));
  static constexpr size_t kSharedBytes = sizeof(uint16_t) * kStages * kStageElements;
};

// One work: a block's tokens and a KV head.
struct PrefillWork {
  int number, kv_head, group;
  int first_token, n_tokens;  // of the queries

  __device__ static PrefillWork of(const AttendPrefillArgs& a, int number) {
    const int first = number / a.n_kv_heads * a.block_tokens;
    const int left = a.n_queries - first;
    return {number, number % a.n_kv_heads, a.n_query_heads / a.n_kv_heads, first,
            left < a.block_tokens ? left : a.block_tokens};
  }
  __device__ int n_rows() const { return n_tokens * group; }                // query rows: a token's heads together
  __device__ int64_t query_of(const AttendPrefillArgs& a, int row) const {  // among all tokens' heads
    return static_cast<int64_t>(first_token + row / group) * a.n_query_heads + kv_head * group + row % group;
  }
};

enum class PrefillPart { context, tail, rest };

struct PrefillTile {
  PrefillPart part;
  int first;  // position in the part's list
  int n;      // keys from there to the end of the part
};

// What rows [first_row, first_row + kPrefillRows) of a work read.
template <class C>
struct PrefillTiles {
  int n_context, n_tail, n_rest;

  __device__ static PrefillTiles of(const AttendPrefillArgs& a, const PrefillWork& work, int first_row) {
    const int end_row = first_row + kPrefillRows < work.n_rows() ? first_row + kPrefillRows : work.n_rows();
    const int last_token = work.first_token + (end_row - 1) / work.group;
    return {a.n_rows ? a.n_rows[work.number] : 0, a.tail_keys ? a.n_tail_before + last_token + 1 : 0,
            a.n_rest ? a.n_rest[work.number] : 0};
  }
  __device__ static int count(int n) { return (n + C::kTileKeys - 1) / C::kTileKeys; }
  __device__ int total() const { return count(n_context) + count(n_tail) + count(n_rest); }
  __device__ PrefillTile at(int tile) const {
    PrefillPart part = PrefillPart::context;
    int n = n_context;
    if (tile >= count(n)) {
      tile -= count(n);
      part = PrefillPart::tail;
      n = n_tail;
      if (tile >= count(n)) {
        tile -= count(n);
        part = PrefillPart::rest;
        n = n_rest;
      }
    }
    return {part, tile * C::kTileKeys, n - tile * C::kTileKeys};
  }
};

// The copies of a tile of bytes.
template <class C>
__device__ void copy_byte_tile(const AttendPrefillArgs& a, const PrefillWork& work, const PrefillTile& tile,
                               uint16_t* stage) {
  const typename C::Bytes to_keys = byte_rows<C>(stage, 0), to_values = byte_rows<C>(stage, 1);
  const auto *keys = static_cast<const char*>(a.keys), *values = static_cast<const char*>(a.values);
  const auto row_at = [&](int i) {
    const int position = tile.first + (i < tile.n ? i : 0);
    return work.kv_head * a.n_tokens + (a.rows ? a.rows[work.number * a.rows_stride + position] : position);
  };
  constexpr int kChunks = C::kDim / 16;
  const int thread = static_cast<int>(threadIdx.x);
  for (int chunk = thread; chunk < C::kTileKeys * kChunks; chunk += kPrefillThreads) {
    const int row = chunk / kChunks, column = chunk % kChunks * 16;
    const int64_t from = row_at(row) * C::kDim + column;
    const int to = row * C::Bytes::kStride + column;
    copy_async_16(to_keys.rows + to, keys + from, row < tile.n);
    copy_async_16(to_values.rows + to, values + from, row < tile.n);
  }
  static_assert(2 * C::kTileKeys <= kPrefillThreads);
  if (thread >= 2 * C::kTileKeys) return;
  const int row = thread % C::kTileKeys;
  const bool of_keys = thread < C::kTileKeys;
  copy_async_4((of_keys ? to_keys : to_values).scales + row, (of_keys ? a.key_scales : a.value_scales) + row_at(row),
               row < tile.n);
}

// Starts the copies of a tile's keys and values, by all threads of the block.
template <class C>
__device__ void copy_prefill_tile(const AttendPrefillArgs& a, const PrefillWork& work, const PrefillTile& tile,
                                  uint16_t* stage) {
  if constexpr (C::kBytes) {
    if (tile.part == PrefillPart::context) return copy_byte_tile<C>(a, work, tile, stage);
  }
  const void *keys = a.keys, *values = a.values;
  int64_t first_row = work.kv_head * a.n_tokens;
  const int32_t* list = a.rows ? a.rows + work.number * a.rows_stride : nullptr;
  if (tile.part == PrefillPart::tail) {
    keys = a.tail_keys;
    values = a.tail_values;
    first_row = work.kv_head * a.tail_capacity;
    list = nullptr;
  } else if (tile.part == PrefillPart::rest) {
    keys = a.centroids;
    values = a.value_means;
    first_row = work.kv_head * a.n_clusters;
    list = a.rest + work.number * a.rest_stride;
  }
  constexpr int kChunks = C::kDim / 8;  // of 16 bytes, per row
#pragma unroll
  for (int i = 0; i < C::kTileKeys * kChunks / kPrefillThreads; ++i) {
    const int chunk = i * kPrefillThreads + static_cast<int>(threadIdx.x);
    const int row = chunk / kChunks, column = chunk % kChunks * 8;
    const bool valid = row < tile.n;
    const int position = tile.first + (valid ? row : 0);
    const int64_t from = (first_row + (list ? list[position] : position)) * C::kDim + column;
    uint16_t* to = stage + row * C::kStride + column;
    copy_async_16(to, static_cast<const uint16_t*>(keys) + from, valid);
    copy_async_16(to + C::kTileKeys * C::kStride, static_cast<const uint16_t*>(values) + from, valid);
  }
}

}  // namespace squeeze::cuda
