// Pairs of vectors in the order that is cheapest to load, "pair order": of bf16 the even elements and the odd ones,
// else one half and the other. The vectors beyond the last whole pair keep their order.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

// The two vectors of the 2 * kLanes elements from `i` on.
template <DType T>
SQUEEZE_INLINE Vec load_first(const void* data, int64_t i) {
  if constexpr (T == DType::bf16) return load_bf16_even(static_cast<const uint16_t*>(data) + i);
  return load<T>(data, i);
}
template <DType T>
SQUEEZE_INLINE Vec load_second(const void* data, int64_t i) {
  if constexpr (T == DType::bf16) return load_bf16_odd(static_cast<const uint16_t*>(data) + i);
  return load<T>(data, i + kLanes);
}

// Calls body(c, n) for the vectors beyond the last whole pair.
template <class Body>
SQUEEZE_INLINE void for_last_vectors(int64_t dim, const Body& body) {
  for (int64_t c = dim / (2 * kLanes) * (2 * kLanes); c < dim; c += kLanes) body(c, smaller(kLanes, dim - c));
}

// The whole pairs of `in`, each reordered in registers, to `out`.
template <class Reorder>
SQUEEZE_INLINE void reorder_pairs(const float* in, int64_t dim, float* out, const Reorder& reorder) {
  for (int64_t c = 0; c + 2 * kLanes <= dim; c += 2 * kLanes) {
    Vec first = load_f32(in + c), second = load_f32(in + c + kLanes);
    reorder(first, second);
    store_f32(out + c, first);
    store_f32(out + c + kLanes, second);
  }
}

// out has room for whole vectors: what lies beyond dim becomes zero.
template <DType T>
inline void to_pair_order(const float* in, int64_t dim, float* out) {
  reorder_pairs(in, dim, out, [](Vec& a, Vec& b) {
    if (T == DType::bf16) split_pairs(a, b);
  });
  for_last_vectors(dim, [&](int64_t c, int64_t n) { store_f32(out + c, load_f32_some(in + c, n)); });
}

// The inverse; nothing beyond dim is written.
template <DType T>
inline void from_pair_order(const float* in, int64_t dim, float* out) {
  reorder_pairs(in, dim, out, [](Vec& a, Vec& b) {
    if (T == DType::bf16) join_pairs(a, b);
  });
  for_last_vectors(dim, [&](int64_t c, int64_t n) { store_f32_some(out + c, load_f32(in + c), n); });
}

}  // namespace
}  // namespace squeeze
