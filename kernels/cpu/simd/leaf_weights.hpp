// leaf_weights and find_from: what a lookup makes of the scores of sketches, in one pass each.
//
// The keys of a leaf lie in the lanes, the last vector overlapping the one before. Four queries at a time: their
// exponentials hide one another's latency, and one shuffle sums a leaf for all of them.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

constexpr float kLog2E = 1.44269504f;

// 2^y within 2.8e-6 of itself for y in [-126, 127], 2^-126 below: y = n + r, |r| <= 1/2, and 2^r by a polynomial of
// degree 4 fitted for the least relative error. Adding 1.5 * 2^23 rounds y to n, which its low bits then hold.
SQUEEZE_INLINE Vec rough_exp2(Vec y) {
  y = max(broadcast(-126.0f), y);
  const Vec magic = broadcast(12582912.0f);
  const Vec n = add(y, magic);
  const Vec r = sub(y, sub(n, magic));
  Vec p = broadcast(0.00957010128f);
  p = fma(p, r, broadcast(0.0559178628f));
  p = fma(p, r, broadcast(0.240247443f));
  p = fma(p, r, broadcast(0.693121791f));
  p = fma(p, r, broadcast(0.999999285f));
  return scale_by_low_bits(p, n);
}

// What a query's weights have in common.
struct WeightState {
  Vec largest = broadcast(-__builtin_inff());  // exponent of two
  Vec check = zero();                          // 0 times all exponents: NaN if one is not finite

  SQUEEZE_INLINE Vec weigh(Vec score, Vec offset) {
    const Vec y = fma(score, broadcast(kLog2E), offset);
    largest = max(y, largest);
    check = fma(y, zero(), check);
    return rough_exp2(y);
  }
};

// The columns [begin, end) of Q queries, all of leaf `leaf`.
template <int Q>
SQUEEZE_INLINE void weigh_leaf(const LeafWeightsArgs& a, int64_t i, int64_t leaf, int64_t begin, int64_t end,
                               WeightState (&state)[Q]) {
  const float* scores = a.scores + i * a.scores_stride;
  float* weights = a.weights + i * a.weights_stride;
  Vec offset[Q], total[Q];
  for (int q = 0; q < Q; ++q) {
    offset[q] = mul(broadcast(a.offsets[(i + q) * a.leaf_stride + leaf]), broadcast(kLog2E));
    total[q] = zero();
  }
  int64_t j = begin;
  for (; j + kLanes <= end; j += kLanes) {
    for (int q = 0; q < Q; ++q) {
      const Vec e = state[q].weigh(load_f32(scores + q * a.scores_stride + j), offset[q]);
      store_f32(weights + q * a.weights_stride + j, e);
      total[q] = add(total[q], e);
    }
  }
  if (j < end && end - begin >= kLanes) {
    const int64_t last = end - kLanes;
    for (int q = 0; q < Q; ++q) {
      const Vec e = state[q].weigh(load_f32(scores + q * a.scores_stride + last), offset[q]);
      store_f32(weights + q * a.weights_stride + last, e);
      total[q] = add(total[q], drop_first(e, j - last));
    }
  } else if (j < end) {
    for (int q = 0; q < Q; ++q) {
      float padded[kLanes];  // the first key fills the other lanes
      const float* own = scores + q * a.scores_stride + j;
      for (int64_t lane = 0; lane < kLanes; ++lane) padded[lane] = own[lane < end - j ? lane : 0];
      const Vec e = state[q].weigh(load_f32(padded), offset[q]);
      store_f32_some(weights + q * a.weights_stride + j, e, end - j);
      total[q] = add(total[q], keep_first(e, end - j));
    }
  }
  float sums[4];
  _mm_storeu_ps(sums, sum4(total[0], total[1 % Q], total[2 % Q], total[3 % Q]));
  for (int q = 0; q < Q; ++q) a.sums[(i + q) * a.leaf_stride + leaf] += sums[q];
}

template <int Q>
inline void weigh_queries(const LeafWeightsArgs& a, int64_t i) {
  WeightState state[Q];
  int64_t begin = 0;
  for (int64_t leaf = 0; leaf < a.n_leaves; ++leaf) {
    if (begin < a.ends[leaf]) weigh_leaf<Q>(a, i, leaf, begin, a.ends[leaf], state);
    begin = a.ends[leaf];
  }
  for (int q = 0; q < Q; ++q) {
    const float exponent = largest(state[q].largest) * (1.0f / kLog2E) + sum(state[q].check);
    float& known = a.largest[i + q];
    if (!(exponent <= known) && known == known) known = exponent;
  }
}

inline void leaf_weights(const LeafWeightsArgs& a) {
  int64_t i = 0;
  for (; i + 4 <= a.n_queries; i += 4) weigh_queries<4>(a, i);
  if (a.n_queries - i == 3) weigh_queries<3>(a, i);
  if (a.n_queries - i == 2) weigh_queries<2>(a, i);
  if (a.n_queries - i == 1) weigh_queries<1>(a, i);
}

// Four vectors at a time: most hold nothing.
inline int64_t find_from(const float* x, int64_t n, float least, int32_t* out) {
  constexpr int64_t kStep = 32;
  const Vec limit = broadcast(least);
  int64_t n_found = 0, i = 0;
  for (; i + kStep <= n; i += kStep) {
    uint32_t found = 0;
    for (int64_t v = 0; v < kStep; v += kLanes) found |= at_least(load_f32(x + i + v), limit) << v;
    for (; found; found &= found - 1) out[n_found++] = static_cast<int32_t>(i + __builtin_ctz(found));
  }
  for (; i < n; ++i) {
    if (x[i] >= least) out[n_found++] = static_cast<int32_t>(i);
  }
  return n_found;
}

}  // namespace
}  // namespace squeeze
