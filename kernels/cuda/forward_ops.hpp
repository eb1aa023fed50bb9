// The small operations of a forward pass on the device: hidden states in float32, inputs of matrix products in bf16.
// All pointers are device memory; matrices are row-major with contiguous rows. As kernels/kernels.hpp does on the CPU.
#pragma once

#include <cstdint>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda {

// out[i] = table[tokens[i]]. table: [vocab, size] of f32, f16 or bf16; out: f32 [n, size]. The tokens are in the
// vocabulary.
void embed(const void* table, DType dtype, const int32_t* tokens, int64_t n, int64_t size, float* out, Stream stream);

// out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight, rounded to bf16. x: f32 [n, size]; out: bf16 [n, size].
void rms_norm(const float* x, const float* weight, int64_t n, int64_t size, float eps, uint16_t* out, Stream stream);

// The heads of n tokens, in place: norm over each head (norm null: none), then half-split RoPE by the angles whose
// cosines and sines are given per token. heads: f32 [n, n_heads, dim], rows n_heads * dim apart or `stride`; cosines,
// sines: f32 [n, dim / 2].
struct RotateArgs {
  float* heads;
  int64_t stride;  // floats from token to token
  int64_t n;
  int n_heads, dim;
  const float* norm;  // [dim] or null
  float eps;
  const float* cosines;
  const float* sines;
};
void rotate_heads(const RotateArgs& args, Stream stream);

// Rows of n tokens, f32 [n, n_heads, dim] with `stride` floats from token to token, behind the `first` rows of a cache,
// f16 or bf16 [n_heads, capacity, dim].
struct AppendArgs {
  const float* rows;
  int64_t stride;
  int64_t n;
  int n_heads, dim;
  void* cache;
  DType dtype;
  int64_t capacity;
  const int32_t* first = nullptr;  // one number, in device memory; null: first_row
  int64_t first_row = 0;
};
void append_rows(const AppendArgs& args, Stream stream);

// One token's keys and values, f32 [n, n_heads, dim], to caches of their own: row lengths[i] - 1 of cache i, f16 or
// bf16
// [*, dim], for each of the n * n_heads.
struct AppendEachArgs {
  const float *keys, *values;
  int64_t n;
  int n_heads, dim;
  void* const* key_caches;  // [n * n_heads]
  void* const* value_caches;
  DType dtype;
  const int32_t* lengths;  // [n * n_heads], the new row included
};
void append_each(const AppendEachArgs& args, Stream stream);

// out[i] = gate[i] / (1 + exp(-gate[i])) * up[i], rounded to bf16.
void swiglu(const float* gate, const float* up, int64_t n, uint16_t* out, Stream stream);

// x[i] += delta[i] (+ bias[i % size] if there is one).
void add(const float* delta, const float* bias, int64_t n, int64_t size, float* x, Stream stream);

// out[i] = x[i], rounded to bf16.
void round_rows(const float* x, int64_t n, uint16_t* out, Stream stream);

// Rows of tokens, [n_tokens, n_kv_heads, group, dim], as works of block_tokens tokens, [n_blocks, n_kv_heads,
// block_tokens, group, dim], and back. n_tokens is a multiple of block_tokens; in and out do not overlap.
struct RegroupArgs {
  const float* in;
  float* out;
  int64_t n_tokens;
  int block_tokens, n_kv_heads, group, dim;
};
void group_blocks(const RegroupArgs& args, Stream stream);
void ungroup_blocks(const RegroupArgs& args, Stream stream);

// totals_of[request][slots[i]] += the sum of the request's n numbers in counts[i], [n_requests, n]; exact.
struct CountArgs {
  static constexpr int kMost = 8;
  const int32_t* counts[kMost];
  int slots[kMost];
  int n_counts;
  int n;
  int n_requests;
  int64_t* const* totals_of;  // [n_requests], in device memory
};
void add_counts(const CountArgs& args, Stream stream);

// out[i]: the index of the largest element of row i, the lowest of equals; -1 if one is NaN or +infinity, or all are
// -infinity. x: f32 [n, size].
void greedy(const float* x, int64_t n, int64_t size, int32_t* out, Stream stream);

}  // namespace squeeze::cuda
