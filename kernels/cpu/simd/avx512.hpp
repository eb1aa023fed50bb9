// Vectors of 16 floats by AVX-512 F, BW, DQ and VL: the operations that the shared kernel bodies are written in.
//
// Everything lies in an anonymous namespace, so that no symbol compiled with these flags can be picked by the linker
// for code that runs on an older machine. `_some` variants touch the first n < kLanes elements; the other lanes are 0.
#pragma once

#include <immintrin.h>

#include "kernels/dtype.hpp"

#define SQUEEZE_INLINE inline __attribute__((always_inline))

namespace squeeze {
namespace {

using Vec = __m512;
using IntVec = __m512i;  // int32
constexpr int kLanes = 16;

// Register blocks, sized so that accumulators and operands fit the 32 registers.
constexpr int kTileRows = 8;  // rows of a panel product, against up to two vectors
constexpr int kDotRows = 4;   // x rows of a dot tile, against four rows

SQUEEZE_INLINE __mmask16 first_mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
SQUEEZE_INLINE Vec zero() { return _mm512_setzero_ps(); }
SQUEEZE_INLINE Vec broadcast(float x) { return _mm512_set1_ps(x); }
SQUEEZE_INLINE IntVec broadcast_int(int32_t x) { return _mm512_set1_epi32(x); }
SQUEEZE_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
SQUEEZE_INLINE Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
SQUEEZE_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
SQUEEZE_INLINE Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
SQUEEZE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
SQUEEZE_INLINE Vec fms(Vec a, Vec b, Vec c) { return _mm512_fmsub_ps(a, b, c); }
SQUEEZE_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b where either is NaN
SQUEEZE_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }  // b where either is NaN

SQUEEZE_INLINE Vec load_f32(const float* p) { return _mm512_loadu_ps(p); }
SQUEEZE_INLINE Vec load_f32_some(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first_mask(n), p); }
SQUEEZE_INLINE void store_f32(float* p, Vec x) { _mm512_storeu_ps(p, x); }
SQUEEZE_INLINE void store_f32_some(float* p, Vec x, int64_t n) { _mm512_mask_storeu_ps(p, first_mask(n), x); }
SQUEEZE_INLINE IntVec load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
SQUEEZE_INLINE void store_int(int32_t* p, IntVec x) { _mm512_storeu_si512(p, x); }

SQUEEZE_INLINE Vec widen_bf16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
SQUEEZE_INLINE Vec load_bf16(const uint16_t* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SQUEEZE_INLINE Vec load_bf16_some(const uint16_t* p, int64_t n) {
  return widen_bf16(_mm256_maskz_loadu_epi16(first_mask(n), p));
}
// The even ones of 32 elements, and the odd ones.
SQUEEZE_INLINE Vec load_bf16_even(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
SQUEEZE_INLINE Vec load_bf16_odd(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
// Two consecutive vectors to their even and their odd elements, and back.
SQUEEZE_INLINE void split_pairs(Vec& first, Vec& second) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Vec a = first, b = second;
  first = _mm512_permutex2var_ps(a, even, b);
  second = _mm512_permutex2var_ps(a, _mm512_or_si512(even, _mm512_set1_epi32(1)), b);
}
SQUEEZE_INLINE void join_pairs(Vec& even, Vec& odd) {
  const __m512i places = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const Vec a = even, b = odd;
  even = _mm512_permutex2var_ps(a, places, b);
  odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(places, _mm512_set1_epi32(8)), b);
}
SQUEEZE_INLINE Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SQUEEZE_INLINE Vec load_f16_some(const uint16_t* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_mask(n), p));
}

SQUEEZE_INLINE Vec load_i8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
SQUEEZE_INLINE Vec load_i8_some(const int8_t* p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_mask(n), p)));
}

// Rounds to nearest even; a NaN stays a quiet NaN.
SQUEEZE_INLINE __m256i narrow_bf16(Vec x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, is_nan, high, _mm512_set1_epi32(0x40)));
}
SQUEEZE_INLINE __m256i narrow_f16(Vec x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SQUEEZE_INLINE void store_half(uint16_t* p, __m256i x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
SQUEEZE_INLINE void store_half_some(uint16_t* p, __m256i x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first_mask(n), x);
}

// x in the first n lanes, 0 in the others.
// x = 2^n m, m in [sqrt(1/2), sqrt(2)), of positive normal numbers.
SQUEEZE_INLINE void split_power(Vec x, Vec& n, Vec& m) {
  const __m512i bits = _mm512_castps_si512(x);
  // The bits of sqrt(1/2) taken off, an exponent goes up where the mantissa is at least sqrt(2)'s.
  const __m512i exponent = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
  n = _mm512_cvtepi32_ps(exponent);
  m = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(exponent, 23)));
}
// -infinity where x is 0, y elsewhere.
SQUEEZE_INLINE Vec minus_infinity_at_zero(Vec x, Vec y) {
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, zero(), _CMP_EQ_OQ), broadcast(-__builtin_inff()));
}
// 0 where a < b, y elsewhere (where either is NaN too).
SQUEEZE_INLINE Vec zero_if_less(Vec a, Vec b, Vec y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ), y);
}
SQUEEZE_INLINE Vec drop_first(Vec x, int64_t n) {  // 0 in the first n lanes, x in the others
  return _mm512_maskz_mov_ps(static_cast<__mmask16>(~first_mask(n)), x);
}
SQUEEZE_INLINE uint32_t at_least(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }  // bit i: a >= b
// x * 2^n, a normal number, for n whose integer stands in the low bits of `magic`.
SQUEEZE_INLINE Vec scale_by_low_bits(Vec x, Vec magic) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(magic), 23)));
}
SQUEEZE_INLINE Vec keep_first(Vec x, int64_t n) { return _mm512_maskz_mov_ps(first_mask(n), x); }
// x where a < b, -infinity elsewhere.
SQUEEZE_INLINE Vec keep_if_less(Vec x, IntVec a, IntVec b) {
  return _mm512_mask_mov_ps(broadcast(-__builtin_inff()), _mm512_cmplt_epi32_mask(a, b), x);
}
// 0 where x is -infinity, x elsewhere.
SQUEEZE_INLINE Vec finite_or_zero(Vec x) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, broadcast(-__builtin_inff()), _CMP_NEQ_UQ), x);
}
// Where score > best: best = score, index = i.
SQUEEZE_INLINE void take_if_greater(Vec score, IntVec i, Vec& best, IntVec& index) {
  const __mmask16 greater = _mm512_cmp_ps_mask(score, best, _CMP_GT_OQ);
  best = _mm512_mask_mov_ps(best, greater, score);
  index = _mm512_mask_mov_epi32(index, greater, i);
}

SQUEEZE_INLINE Vec round_to_int(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x * 2^n for an integral n.
SQUEEZE_INLINE Vec scale_by_power(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }

SQUEEZE_INLINE __m256 low_half(Vec x) { return _mm512_castps512_ps256(x); }
SQUEEZE_INLINE __m256 high_half(Vec x) { return _mm512_extractf32x8_ps(x, 1); }
// In each lane the largest of the lanes with the same i % 4.
SQUEEZE_INLINE Vec max_of_fours(Vec x) {
  x = max(x, _mm512_shuffle_f32x4(x, x, 0x4e));
  return max(x, _mm512_shuffle_f32x4(x, x, 0xb1));
}
SQUEEZE_INLINE Vec swap_pairs(Vec x) { return _mm512_permute_ps(x, 0x4e); }       // lanes 0, 1 with 2, 3, and so on
SQUEEZE_INLINE Vec swap_neighbours(Vec x) { return _mm512_permute_ps(x, 0xb1); }  // lane 0 with 1, 2 with 3, and so on
SQUEEZE_INLINE bool equal_all(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ) == 0; }

SQUEEZE_INLINE __m256 fold(Vec x) { return _mm256_add_ps(low_half(x), high_half(x)); }
SQUEEZE_INLINE __m256 fold_max(Vec x) { return _mm256_max_ps(low_half(x), high_half(x)); }

}  // namespace
}  // namespace squeeze
