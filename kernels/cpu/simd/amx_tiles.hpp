// The instructions on AMX tiles that attend uses, and what prepares their operands.
//
// A tile is a register of 16 rows of 64 bytes. Written as assembly, since GCC's own wrappers do not say that tiles are
// loaded from memory and stored to it, so that it may move other stores across them.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

constexpr int kTileBytes = 1024;

// Opens the calling thread's tiles, all of full size; close_tiles gives their state back.
SQUEEZE_INLINE void open_tiles() {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } const config;
  static_assert(sizeof config == 64);
  __asm__ volatile("ldtilecfg (%0)" ::"r"(&config) : "memory");
}
SQUEEZE_INLINE void close_tiles() { __asm__ volatile("tilerelease" ::: "memory"); }

template <int kTile>
SQUEEZE_INLINE void clear_tile() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
// Rows `stride` bytes apart.
template <int kTile>
SQUEEZE_INLINE void load_tile(const void* rows, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
SQUEEZE_INLINE void store_tile(void* rows, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
}
// total[i][j] += sum over c of left[i][c] * right[c / 2][2 * j + c % 2], c < 32, of bf16 in float32.
template <int kTotal, int kLeft, int kRight>
SQUEEZE_INLINE void add_product() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kTotal), "i"(kLeft), "i"(kRight));
}

// x as the sum of two bf16 numbers, each in the upper half of its lane, to 2^-17 of x.
struct TwoTerms {
  __m512i high, low;
};
SQUEEZE_INLINE __m512i nearest_bf16(Vec x) {
  const __m512i rounded = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
  return _mm512_and_si512(rounded, _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
}
SQUEEZE_INLINE TwoTerms two_terms(Vec x) {
  const __m512i high = nearest_bf16(x);
  return {high, nearest_bf16(sub(x, _mm512_castsi512_ps(high)))};
}

// Sixteen vectors of 16 numbers to the vectors of their first, second, ... numbers.
SQUEEZE_INLINE void transpose_tile(__m512i (&x)[16]) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // x[i + c]: numbers c, 4 + c, 8 + c, 12 + c of vectors i to i + 3
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88), high = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
    const __m512i low2 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88);
    const __m512i high2 = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
    y[c] = _mm512_shuffle_i32x4(low, low2, 0x88);
    y[4 + c] = _mm512_shuffle_i32x4(high, high2, 0x88);
    y[8 + c] = _mm512_shuffle_i32x4(low, low2, 0xdd);
    y[12 + c] = _mm512_shuffle_i32x4(high, high2, 0xdd);
  }
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

}  // namespace
}  // namespace squeeze
