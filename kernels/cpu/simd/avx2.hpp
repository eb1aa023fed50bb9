// Vectors of 8 floats by AVX2, FMA and F16C: the operations that the shared kernel bodies are written in.
//
// Everything lies in an anonymous namespace, so that no symbol compiled with these flags can be picked by the linker
// for code that runs on an older machine. `_some` variants touch the first n < kLanes elements; the other lanes are 0.
#pragma once

#include <immintrin.h>

#include "kernels/dtype.hpp"

#define SQUEEZE_INLINE inline __attribute__((always_inline))

namespace squeeze {
namespace {

using Vec = __m256;
using IntVec = __m256i;  // int32
constexpr int kLanes = 8;

// Register blocks, sized so that accumulators and operands fit the 16 registers.
constexpr int kTileRows = 6;  // rows of a panel product, against up to two vectors
constexpr int kDotRows = 2;   // x rows of a dot tile, against four rows

SQUEEZE_INLINE __m256i first_mask(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SQUEEZE_INLINE Vec zero() { return _mm256_setzero_ps(); }
SQUEEZE_INLINE Vec broadcast(float x) { return _mm256_set1_ps(x); }
SQUEEZE_INLINE IntVec broadcast_int(int32_t x) { return _mm256_set1_epi32(x); }
SQUEEZE_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
SQUEEZE_INLINE Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
SQUEEZE_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
SQUEEZE_INLINE Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
SQUEEZE_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
SQUEEZE_INLINE Vec fms(Vec a, Vec b, Vec c) { return _mm256_fmsub_ps(a, b, c); }
SQUEEZE_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }  // b where either is NaN
SQUEEZE_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }  // b where either is NaN

SQUEEZE_INLINE Vec load_f32(const float* p) { return _mm256_loadu_ps(p); }
SQUEEZE_INLINE Vec load_f32_some(const float* p, int64_t n) { return _mm256_maskload_ps(p, first_mask(n)); }
SQUEEZE_INLINE void store_f32(float* p, Vec x) { _mm256_storeu_ps(p, x); }
SQUEEZE_INLINE void store_f32_some(float* p, Vec x, int64_t n) { _mm256_maskstore_ps(p, first_mask(n), x); }
SQUEEZE_INLINE IntVec load_int(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
SQUEEZE_INLINE void store_int(int32_t* p, IntVec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }

SQUEEZE_INLINE __m128i load_half(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
SQUEEZE_INLINE __m128i load_half_some(const uint16_t* p, int64_t n) {
  uint16_t padded[8] = {};
  __builtin_memcpy(padded, p, static_cast<size_t>(n) * sizeof *p);
  return load_half(padded);
}
SQUEEZE_INLINE Vec widen_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
SQUEEZE_INLINE Vec load_bf16(const uint16_t* p) { return widen_bf16(load_half(p)); }
SQUEEZE_INLINE Vec load_bf16_some(const uint16_t* p, int64_t n) { return widen_bf16(load_half_some(p, n)); }
// The even ones of 16 elements, and the odd ones.
SQUEEZE_INLINE Vec load_bf16_even(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16));
}
SQUEEZE_INLINE Vec load_bf16_odd(const uint16_t* p) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), high));
}
// Two consecutive vectors to their even and their odd elements, and back.
SQUEEZE_INLINE void split_pairs(Vec& first, Vec& second) {
  const Vec low = _mm256_permute2f128_ps(first, second, 0x20), high = _mm256_permute2f128_ps(first, second, 0x31);
  first = _mm256_shuffle_ps(low, high, 0x88);
  second = _mm256_shuffle_ps(low, high, 0xdd);
}
SQUEEZE_INLINE void join_pairs(Vec& even, Vec& odd) {
  const Vec low = _mm256_unpacklo_ps(even, odd), high = _mm256_unpackhi_ps(even, odd);
  even = _mm256_permute2f128_ps(low, high, 0x20);
  odd = _mm256_permute2f128_ps(low, high, 0x31);
}
SQUEEZE_INLINE Vec load_f16(const uint16_t* p) { return _mm256_cvtph_ps(load_half(p)); }
SQUEEZE_INLINE Vec load_f16_some(const uint16_t* p, int64_t n) { return _mm256_cvtph_ps(load_half_some(p, n)); }

SQUEEZE_INLINE Vec load_i8(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
SQUEEZE_INLINE Vec load_i8_some(const int8_t* p, int64_t n) {
  int8_t padded[kLanes] = {};
  __builtin_memcpy(padded, p, static_cast<size_t>(n));
  return load_i8(padded);
}

// Rounds to nearest even; a NaN stays a quiet NaN.
SQUEEZE_INLINE __m128i narrow_bf16(Vec x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i wide = _mm256_blendv_epi8(rounded, quiet, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
}
SQUEEZE_INLINE __m128i narrow_f16(Vec x) { return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }
SQUEEZE_INLINE void store_half(uint16_t* p, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), x); }
SQUEEZE_INLINE void store_half_some(uint16_t* p, __m128i x, int64_t n) {
  uint16_t whole[8];
  store_half(whole, x);
  __builtin_memcpy(p, whole, static_cast<size_t>(n) * sizeof *p);
}

// x in the first n lanes, 0 in the others.
SQUEEZE_INLINE Vec keep_first(Vec x, int64_t n) { return _mm256_and_ps(x, _mm256_castsi256_ps(first_mask(n))); }
// 0 in the first n lanes, x in the others.
SQUEEZE_INLINE Vec drop_first(Vec x, int64_t n) { return _mm256_andnot_ps(_mm256_castsi256_ps(first_mask(n)), x); }
// Bit i: whether a >= b in lane i.
SQUEEZE_INLINE uint32_t at_least(Vec a, Vec b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
// x where a < b, -infinity elsewhere.
SQUEEZE_INLINE Vec keep_if_less(Vec x, IntVec a, IntVec b) {
  return _mm256_blendv_ps(broadcast(-__builtin_inff()), x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(b, a)));
}
// 0 where x is -infinity, x elsewhere.
SQUEEZE_INLINE Vec finite_or_zero(Vec x) {
  return _mm256_and_ps(x, _mm256_cmp_ps(x, broadcast(-__builtin_inff()), _CMP_NEQ_UQ));
}
// Where score > best: best = score, index = i.
SQUEEZE_INLINE void take_if_greater(Vec score, IntVec i, Vec& best, IntVec& index) {
  const __m256 greater = _mm256_cmp_ps(score, best, _CMP_GT_OQ);
  best = _mm256_blendv_ps(best, score, greater);
  index = _mm256_blendv_epi8(index, i, _mm256_castps_si256(greater));
}

SQUEEZE_INLINE Vec round_to_int(Vec x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// x * 2^n for an integral n in [-252, 254]. Two factors, so that each is a normal number and the result rounds once.
SQUEEZE_INLINE Vec scale_by_power(Vec x, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}

// x * 2^n, a normal number, for n whose integer stands in the low bits of `magic`.
SQUEEZE_INLINE Vec scale_by_low_bits(Vec x, Vec magic) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(magic), 23)));
}

// x = 2^n m, m in [sqrt(1/2), sqrt(2)), of positive normal numbers.
SQUEEZE_INLINE void split_power(Vec x, Vec& n, Vec& m) {
  const __m256i bits = _mm256_castps_si256(x);
  // The bits of sqrt(1/2) taken off, an exponent goes up where the mantissa is at least sqrt(2)'s.
  const __m256i shifted = _mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3));
  const __m256i exponent = _mm256_srai_epi32(shifted, 23);
  n = _mm256_cvtepi32_ps(exponent);
  m = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(exponent, 23)));
}
// -infinity where x is 0, y elsewhere.
SQUEEZE_INLINE Vec minus_infinity_at_zero(Vec x, Vec y) {
  return _mm256_blendv_ps(y, broadcast(-__builtin_inff()), _mm256_cmp_ps(x, zero(), _CMP_EQ_OQ));
}

// 0 where a < b, y elsewhere (where either is NaN too).
SQUEEZE_INLINE Vec zero_if_less(Vec a, Vec b, Vec y) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ), y); }

// In each lane the largest of the lanes with the same i % 4.
SQUEEZE_INLINE Vec max_of_fours(Vec x) { return max(x, _mm256_permute2f128_ps(x, x, 1)); }
SQUEEZE_INLINE Vec swap_pairs(Vec x) { return _mm256_permute_ps(x, 0x4e); }       // lanes 0, 1 with 2, 3, and so on
SQUEEZE_INLINE Vec swap_neighbours(Vec x) { return _mm256_permute_ps(x, 0xb1); }  // lane 0 with 1, 2 with 3, and so on
SQUEEZE_INLINE bool equal_all(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)) == 0; }

SQUEEZE_INLINE __m256 fold(Vec x) { return x; }
SQUEEZE_INLINE __m256 fold_max(Vec x) { return x; }

}  // namespace
}  // namespace squeeze
