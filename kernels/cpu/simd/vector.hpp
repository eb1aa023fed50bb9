// The vectors of the instruction set that the file is compiled for, and what all of them share: typed loads, reductions
// and the exponential.
#pragma once

#include "kernels/kernels.hpp"
#if defined(__AVX512F__)
#include "kernels/cpu/simd/avx512.hpp"
#else
#include "kernels/cpu/simd/avx2.hpp"
#endif

namespace squeeze {
namespace {

// The kLanes elements from `i` on of an array of type T.
template <DType T>
SQUEEZE_INLINE Vec load(const void* data, int64_t i) {
  if constexpr (T == DType::f32) {
    return load_f32(static_cast<const float*>(data) + i);
  } else if constexpr (T == DType::i8) {
    return load_i8(static_cast<const int8_t*>(data) + i);
  } else {
    const uint16_t* halves = static_cast<const uint16_t*>(data) + i;
    return T == DType::f16 ? load_f16(halves) : load_bf16(halves);
  }
}

template <DType T>
SQUEEZE_INLINE Vec load_some(const void* data, int64_t i, int64_t n) {
  if constexpr (T == DType::f32) {
    return load_f32_some(static_cast<const float*>(data) + i, n);
  } else if constexpr (T == DType::i8) {
    return load_i8_some(static_cast<const int8_t*>(data) + i, n);
  } else {
    const uint16_t* halves = static_cast<const uint16_t*>(data) + i;
    return T == DType::f16 ? load_f16_some(halves, n) : load_bf16_some(halves, n);
  }
}

template <DType T>
constexpr int64_t kElementBytes = size_of(T);

// Calls body.template operator()<T>() for the floating-point type that `dtype` names.
template <class Body>
SQUEEZE_INLINE void with_dtype(DType dtype, const Body& body) {
  if (dtype == DType::f32) return body.template operator()<DType::f32>();
  if (dtype == DType::f16) return body.template operator()<DType::f16>();
  body.template operator()<DType::bf16>();
}

SQUEEZE_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Lane i of the result is the sum of the i-th vector; each sum is taken in the same order.
SQUEEZE_INLINE __m128 sum4(Vec a, Vec b, Vec c, Vec d) {
  const __m256 ab = _mm256_hadd_ps(fold(a), fold(b));
  const __m256 cd = _mm256_hadd_ps(fold(c), fold(d));
  const __m256 abcd = _mm256_hadd_ps(ab, cd);
  return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

SQUEEZE_INLINE float sum(Vec x) { return _mm_cvtss_f32(sum4(x, x, x, x)); }

SQUEEZE_INLINE float largest(Vec x) {
  const __m256 folded = fold_max(x);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(folded), _mm256_extractf128_ps(folded, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// e^r for x = n ln 2 + r, |r| <= ln 2 / 2: 1 + r + r^2 p(r) with p of degree 4 fitted for the least relative error
// (3.6e-9). ln 2 is split so that n times its first part is exact.
SQUEEZE_INLINE Vec exp_of_rest(Vec x, Vec n) {
  Vec r = fma(n, broadcast(-0x1.62p-1f), x);
  r = fma(n, broadcast(-0.0017409306f), r);
  Vec p = broadcast(0.00138145406f);
  p = fma(p, r, broadcast(0.00836874545f));
  p = fma(p, r, broadcast(0.0416683890f));
  p = fma(p, r, broadcast(0.166665211f));
  p = fma(p, r, broadcast(0.499999940f));
  p = fma(mul(p, r), r, r);
  return add(p, broadcast(1.0f));
}

// e^x within 2 ulp; exactly 1 at 0, 0 at -infinity, infinity where it overflows, NaN at NaN.
SQUEEZE_INLINE Vec exp(Vec x) {
  // Beyond these bounds the result is 0 or infinity anyway; a NaN passes.
  x = min(broadcast(89.0f), max(broadcast(-104.0f), x));
  const Vec n = round_to_int(mul(x, broadcast(1.44269504f)));
  return scale_by_power(exp_of_rest(x, n), n);
}

// The same for x <= 0 (or NaN), in two thirds of the operations; 0 below -87. Adding 1.5 * 2^23 rounds to n, which its
// low bits then hold.
SQUEEZE_INLINE Vec exp_of_negative(Vec x) {
  const Vec magic = broadcast(12582912.0f);
  const Vec shifted = fma(x, broadcast(1.44269504f), magic);
  const Vec n = sub(shifted, magic);
  return zero_if_less(x, broadcast(-87.0f), scale_by_low_bits(exp_of_rest(x, n), shifted));
}

SQUEEZE_INLINE float exp_of(float x) { return _mm_cvtss_f32(_mm256_castps256_ps128(fold_max(exp(broadcast(x))))); }

}  // namespace
}  // namespace squeeze
