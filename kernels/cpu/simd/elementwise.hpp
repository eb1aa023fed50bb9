// Kernels that pass over vectors once: conversions, exp_sum, rms_norm, rope, swiglu. Bound by memory, or by exp.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

template <DType T>
inline void widen(const void* in, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(out + i, load<T>(in, i));
  if (i < n) store_f32_some(out + i, load_some<T>(in, i, n - i), n - i);
}

inline void to_f32(const void* in, DType dtype, int64_t n, float* out) {
  with_dtype(dtype, [&]<DType T>() { widen<T>(in, n, out); });
}

inline void copy_f32(const float* in, int64_t n, float* out) { widen<DType::f32>(in, n, out); }

inline void to_bf16(const float* in, int64_t n, uint16_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_half(out + i, narrow_bf16(load_f32(in + i)));
  if (i < n) store_half_some(out + i, narrow_bf16(load_f32_some(in + i, n - i)), n - i);
}

inline void to_f16(const float* in, int64_t n, uint16_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_half(out + i, narrow_f16(load_f32(in + i)));
  if (i < n) store_half_some(out + i, narrow_f16(load_f32_some(in + i, n - i)), n - i);
}

inline void from_f32(const float* in, int64_t n, DType dtype, void* out) {
  if (dtype == DType::f32) return copy_f32(in, n, static_cast<float*>(out));
  if (dtype == DType::f16) return to_f16(in, n, static_cast<uint16_t*>(out));
  to_bf16(in, n, static_cast<uint16_t*>(out));
}

inline void widen_i8(const int8_t* in, const float* row_scales, int64_t n_rows, int64_t dim, float* out) {
  for (int64_t i = 0; i < n_rows; ++i, in += dim, out += dim) {
    const Vec scale = broadcast(row_scales[i]);
    int64_t c = 0;
    for (; c + kLanes <= dim; c += kLanes) store_f32(out + c, mul(scale, load_i8(in + c)));
    for (; c < dim; ++c) out[c] = row_scales[i] * static_cast<float>(in[c]);
  }
}

inline Extent extent(const float* x, int64_t n) {
  Vec low = broadcast(__builtin_inff()), high = broadcast(-__builtin_inff());
  const auto take = [&](Vec v) {  // min and max return their second operand where one is NaN
    low = min(v, low);
    high = max(v, high);
  };
  for (int64_t i = 0; i + kLanes <= n; i += kLanes) take(load_f32(x + i));
  if (n >= kLanes) {
    take(load_f32(x + n - kLanes));
  } else {
    for (int64_t i = 0; i < n; ++i) take(broadcast(x[i]));
  }
  return {-largest(sub(zero(), low)), largest(high)};
}

inline float exp_sum(float* x, int64_t n, float max, const float* weights) {
  const Vec shift = broadcast(max);
  Vec total = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec e = exp(sub(load_f32(x + i), shift));
    store_f32(x + i, e);
    total = weights ? fma(load_f32(weights + i), e, total) : add(total, e);
  }
  if (i < n) {
    const Vec e = exp(sub(load_f32_some(x + i, n - i), shift));
    store_f32_some(x + i, e, n - i);
    const Vec kept = keep_first(e, n - i);
    total = weights ? fma(load_f32_some(weights + i, n - i), kept, total) : add(total, kept);
  }
  return sum(total);
}

// x = 2^n m with m in [sqrt(1/2), sqrt(2)): n ln 2 + log m, log m = r + r^2 q(r) with r = m - 1 (Cephes' logf).
SQUEEZE_INLINE Vec log(Vec x) {
  const Vec normal = max(broadcast(0x1p-126f), x);  // subnormal numbers count as the least normal one
  Vec n, m;
  split_power(normal, n, m);
  const Vec r = sub(m, broadcast(1.0f));
  const Vec square = mul(r, r);
  Vec p = broadcast(7.0376836292e-2f);
  p = fma(p, r, broadcast(-1.1514610310e-1f));
  p = fma(p, r, broadcast(1.1676998740e-1f));
  p = fma(p, r, broadcast(-1.2420140846e-1f));
  p = fma(p, r, broadcast(1.4249322787e-1f));
  p = fma(p, r, broadcast(-1.6668057665e-1f));
  p = fma(p, r, broadcast(2.0000714765e-1f));
  p = fma(p, r, broadcast(-2.4999993993e-1f));
  p = fma(p, r, broadcast(3.3333331174e-1f));
  Vec y = mul(mul(p, r), square);
  y = fma(n, broadcast(-2.12194440e-4f), y);
  y = fma(square, broadcast(-0.5f), y);
  y = fma(n, broadcast(0.693359375f), add(r, y));
  return minus_infinity_at_zero(x, y);
}

inline void log(float* x, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(x + i, log(load_f32(x + i)));
  if (i < n) store_f32_some(x + i, log(load_f32_some(x + i, n - i)), n - i);
}

// load(i) is a vector of the elements from i on, load_some(i) one of those that are left.
template <class Load, class LoadSome>
SQUEEZE_INLINE float sum_squares(int64_t n, const Load& load, const LoadSome& load_some) {
  Vec squares = zero();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) squares = fma(load(i), load(i), squares);
  if (i < n) squares = fma(load_some(i), load_some(i), squares);
  return sum(squares);
}

inline float sum_squares_f16(const uint16_t* x, int64_t n) {
  return sum_squares(
      n, [x](int64_t i) { return load_f16(x + i); }, [x, n](int64_t i) { return load_f16_some(x + i, n - i); });
}

inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  const float squares = sum_squares(
      n, [x](int64_t i) { return load_f32(x + i); }, [x, n](int64_t i) { return load_f32_some(x + i, n - i); });
  const double mean_square = double{squares} / static_cast<double>(n);
  const __m128d root = _mm_sqrt_pd(_mm_set1_pd(mean_square + double{eps}));
  const Vec inverse = broadcast(static_cast<float>(1.0 / _mm_cvtsd_f64(root)));
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store_f32(out + i, mul(mul(load_f32(x + i), inverse), load_f32(weight + i)));
  }
  if (i < n) {
    const Vec scaled = mul(load_f32_some(x + i, n - i), inverse);
    store_f32_some(out + i, mul(scaled, load_f32_some(weight + i, n - i)), n - i);
  }
}

inline void rope(float* x, int64_t n, const float* cosines, const float* sines) {
  const int64_t half = n / 2;
  float* high = x + half;
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const Vec a = load_f32(x + i);
    const Vec b = load_f32(high + i);
    const Vec c = load_f32(cosines + i);
    const Vec s = load_f32(sines + i);
    store_f32(x + i, fms(a, c, mul(b, s)));
    store_f32(high + i, fma(b, c, mul(a, s)));
  }
  if (i < half) {
    const int64_t rest = half - i;
    const Vec a = load_f32_some(x + i, rest);
    const Vec b = load_f32_some(high + i, rest);
    const Vec c = load_f32_some(cosines + i, rest);
    const Vec s = load_f32_some(sines + i, rest);
    store_f32_some(x + i, fms(a, c, mul(b, s)), rest);
    store_f32_some(high + i, fma(b, c, mul(a, s)), rest);
  }
}

SQUEEZE_INLINE Vec swish(Vec gate) { return div(gate, add(broadcast(1.0f), exp(sub(zero(), gate)))); }

inline void swiglu(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f32(out + i, mul(swish(load_f32(gate + i)), load_f32(up + i)));
  if (i < n) {
    const Vec g = load_f32_some(gate + i, n - i);
    store_f32_some(out + i, mul(swish(g), load_f32_some(up + i, n - i)), n - i);
  }
}

}  // namespace
}  // namespace squeeze
