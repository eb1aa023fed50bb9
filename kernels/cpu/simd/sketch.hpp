// Rows of small integers and of signs, expanded to floats that the score kernels take. Bound by the stores.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

inline void widen_i8(const int8_t* in, const float* row_scales, int64_t n_rows, int64_t dim, float* out) {
  for (int64_t i = 0; i < n_rows; ++i, in += dim, out += dim) {
    const Vec scale = broadcast(row_scales[i]);
    int64_t c = 0;
    for (; c + kLanes <= dim; c += kLanes) store_f32(out + c, mul(scale, load_i8(in + c)));
    for (; c < dim; ++c) out[c] = row_scales[i] * static_cast<float>(in[c]);
  }
}

inline float signed_unit(const uint8_t* plane, int64_t c) { return (plane[c / 8] >> (c % 8)) & 1 ? 1.0f : -1.0f; }

template <int Bits>
inline void unpack_signs_of(const UnpackSignsArgs& a) {
  const int64_t plane_bytes = (a.dim + 7) / 8;
  const uint8_t* codes = a.codes;
  float* out = a.out;
  for (int64_t i = 0; i < a.n_rows; ++i, codes += Bits * plane_bytes, out += a.dim) {
    const Vec unit = broadcast(a.row_scales[i]);
    const Vec half = broadcast(0.5f * a.row_scales[i]);
    int64_t c = 0;
    for (; c + kLanes <= a.dim; c += kLanes) {
      Vec x = with_signs(unit, codes + c / 8);
      if constexpr (Bits == 2) x = add(x, with_signs(half, codes + plane_bytes + c / 8));
      store_f32(out + c, x);
    }
    for (; c < a.dim; ++c) {
      float level = signed_unit(codes, c);
      if constexpr (Bits == 2) level += 0.5f * signed_unit(codes + plane_bytes, c);
      out[c] = a.row_scales[i] * level;
    }
  }
}

inline void unpack_signs(const UnpackSignsArgs& a) { a.bits == 2 ? unpack_signs_of<2>(a) : unpack_signs_of<1>(a); }

}  // namespace
}  // namespace squeeze
