// Keys and values in shared memory as operands of matrix instructions: rows of 16-bit elements, or of bytes.
//
// Bytes are loaded by the instructions that load pairs of them as 16-bit elements, and widened in registers. A lane
// then has four consecutive columns of a key where it would have two and two, and of values it has even and odd columns
// apart. C::kRun, 4 instead of 2, says that queries and outputs are permuted alike; then 16-bit rows (a tail's, say)
// are loaded word by word into the same places.
#pragma once

#include "kernels/cuda/simt.cuh"

namespace squeeze::cuda {

// Rows of numbers in 8 bits, each with a scale. kRowBytes: from row to row, a multiple of 16; 16 bytes more than the
// row has put eight rows in different banks.
template <int kRowBytes>
struct ByteRows {
  static constexpr int kStride = kRowBytes;
  char* rows;
  float* scales;
};

// Where a stage of C::kKeyTiles * 8 keys and values holds bytes: where those of 16 bits would lie, the scales behind.
// part: 0, the keys, or 1, the values.
template <class C>
__device__ typename C::Bytes byte_rows(uint16_t* stage, int part) {
  constexpr int kRows = C::kKeyTiles * 8;
  auto* scales = reinterpret_cast<float*>(stage + 2 * kRows * C::kStride);
  return {reinterpret_cast<char*>(stage + part * kRows * C::kStride), scales + part * kRows};
}

// The second operands of one step (16 columns) for 16 keys: of the first eight, then of the others.
template <class C>
__device__ void load_keys(uint32_t (&b)[4], const uint16_t* keys, int step) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if constexpr (C::kRun == 4) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto words = load_8(keys + (half * 8 + lane / 4) * C::kStride + step * 16 + lane % 4 * 4);
      b[half * 2] = words.x;
      b[half * 2 + 1] = words.y;
    }
  } else {
    load_matrices(b, keys + (lane % 8 + lane / 16 * 8) * C::kStride + lane / 8 % 2 * 8 + step * 16);
  }
}

// The same of two steps.
template <class C, int kRowBytes>
__device__ void load_keys(uint32_t (&b)[2][4], const ByteRows<kRowBytes>& keys, int step) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  uint32_t bytes[4];  // first eight keys: both steps; the others
  load_matrices(bytes, keys.rows + (lane % 8 + lane / 16 * 8) * kRowBytes + (lane / 8 % 2 + step) * 16);
#pragma unroll
  for (int i = 0; i < 4; ++i) widen_bytes(bytes[i], b[i % 2][i / 2 * 2], b[i % 2][i / 2 * 2 + 1], typename C::T{});
}

// The second operands of 16 keys for two tiles (of 8 columns) of the output.
template <class C>
__device__ void load_values(uint32_t (&b)[4], const uint16_t* values, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if constexpr (C::kRun == 4) {
    const uint16_t* first = values + lane % 4 * 2 * C::kStride + tile * 8 + lane / 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t even = load_4(first + half * 8 * C::kStride), odd = load_4(first + (half * 8 + 1) * C::kStride);
      b[half] = (even & 0xffffu) | odd << 16;
      b[half + 2] = even >> 16 | (odd & 0xffff0000u);
    }
  } else {
    load_matrices_transposed(b, values + lane % 16 * C::kStride + lane / 16 * 8 + tile * 8);
  }
}

// The same for four tiles, in pairs.
template <class C, int kRowBytes>
__device__ void load_values(uint32_t (&b)[2][4], const ByteRows<kRowBytes>& values, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  uint32_t bytes[4];  // columns 0 to 15: of keys 0 to 7 and 8 to 15; columns 16 to 31
  load_matrices_transposed(bytes, values.rows + lane % 16 * kRowBytes + lane / 16 * 16 + tile * 8);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = bytes[i];  // a key's even and odd column, the next key's
    const uint32_t by_column = (word & 0xff0000ffu) | (word & 0xff00u) << 8 | (word >> 8 & 0xff00u);
    widen_bytes(by_column, b[i / 2][i % 2], b[i / 2][i % 2 + 2], typename C::T{});
  }
}

}  // namespace squeeze::cuda
