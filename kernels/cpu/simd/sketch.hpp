// sketch_scores: dots of 8-bit queries with sign codes, keys in the lanes.
//
// A block of keys is expanded once for all queries, to the unsigned levels u = 0, 1 (one bit) or 0 .. 3 (two bits),
// four dimensions of a key per 32-bit lane. The same four dimensions of a query are broadcast, multiplied, added in
// pairs (pmaddubsw) and summed in 16 bits. The code being 2 u - (2^bits - 1), the dot is 2 sum(u q) - (2^bits - 1)
// sum(q). Fast because no sum crosses lanes and the scores come out in the order of the keys.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

// Queries and keys of a block.
constexpr int64_t kSketchQueries = 64;
constexpr int64_t kSketchKeys = 64;
constexpr int64_t kGroupBytes = 4 * kSketchKeys;  // the levels of four dimensions
// Dimensions that are summed in 16 bits: a lane gets half of them, each at most 3 * 127, 24384 in all.
constexpr int64_t kNarrowDims = 128;

struct SketchBlock {
  alignas(64) uint8_t levels[kMaxHeadDim / 4 * kGroupBytes];  // [groups of four dimensions, kSketchKeys, 4]
  alignas(64) float scales[kSketchKeys];
  alignas(64) int32_t starts[kSketchQueries];  // -(2^bits - 1) sum(q)
};

// Two rows' next eight bytes; what lies beyond n bytes is zero.
SQUEEZE_INLINE __m128i load_pair(const uint8_t* first, const uint8_t* second, int64_t n) {
  if (n >= 8) {
    const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first));
    return _mm_unpacklo_epi64(low, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(second)));
  }
  alignas(16) uint8_t bytes[16] = {};
  for (int64_t i = 0; i < n; ++i) {
    bytes[i] = first[i];
    bytes[8 + i] = second[i];
  }
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}

// The next eight bytes of eight rows: the first four of each in `low`, the others in `high`.
SQUEEZE_INLINE void load_words(const uint8_t* const (&rows)[8], int64_t begin, int64_t n, __m256i& low, __m256i& high) {
  const auto pair = [&](int i) { return load_pair(rows[i] + begin, rows[i + 1] + begin, n); };
  const __m256 even = _mm256_castsi256_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(pair(0)), pair(4), 1));
  const __m256 odd = _mm256_castsi256_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(pair(2)), pair(6), 1));
  low = _mm256_castps_si256(_mm256_shuffle_ps(even, odd, 0x88));
  high = _mm256_castps_si256(_mm256_shuffle_ps(even, odd, 0xdd));
}

// Bits 4 nibble .. 4 nibble + 3 of each lane as four bytes, 0 or 1.
SQUEEZE_INLINE __m256i spread_bits(__m256i words, int nibble) {
  const __m256i first = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c);
  const __m256i byte = _mm256_add_epi32(first, _mm256_set1_epi32(nibble / 2 * 0x01010101));
  const __m256i bits = _mm256_set1_epi32(nibble % 2 ? static_cast<int>(0x80402010u) : 0x08040201);
  return _mm256_min_epu8(_mm256_and_si256(_mm256_shuffle_epi8(words, byte), bits), _mm256_set1_epi8(1));
}

// The levels of 32 dimensions of eight keys.
template <int Bits>
SQUEEZE_INLINE void expand_words(__m256i first_plane, __m256i second_plane, uint8_t* out) {
  for (int nibble = 0; nibble < 8; ++nibble, out += kGroupBytes) {
    __m256i levels = spread_bits(first_plane, nibble);
    if (Bits == 2) levels = _mm256_add_epi8(_mm256_add_epi8(levels, levels), spread_bits(second_plane, nibble));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out), levels);
  }
}

// Keys [key, key + 8); those from n_rows on repeat the last one.
template <int Bits>
SQUEEZE_INLINE void expand_keys(const SketchScoresArgs& a, int64_t key, uint8_t* out) {
  const int64_t plane = (a.dim + 7) / 8;
  const uint8_t* rows[8];
  for (int i = 0; i < 8; ++i) rows[i] = a.codes + smaller(key + i, a.n_rows - 1) * Bits * plane;
  for (int64_t begin = 0; begin < plane; begin += 8, out += 16 * kGroupBytes) {
    __m256i low[2], high[2];
    for (int p = 0; p < Bits; ++p) load_words(rows, p * plane + begin, plane - begin, low[p], high[p]);
    expand_words<Bits>(low[0], low[Bits - 1], out);
    if (plane - begin > 4) expand_words<Bits>(high[0], high[Bits - 1], out + 8 * kGroupBytes);
  }
}

__attribute__((noinline)) void prepare_keys(const SketchScoresArgs& a, SketchBlock& block) {
  for (int64_t key = 0; key < a.n_rows; key += kLanes) {
    for (int64_t part = key; part < key + kLanes; part += 8) {
      a.bits == 1 ? expand_keys<1>(a, part, block.levels + 4 * part) : expand_keys<2>(a, part, block.levels + 4 * part);
    }
    const int64_t n = smaller(kLanes, a.n_rows - key);
    store_f32(block.scales + key, n == kLanes ? load_f16(a.scales + key) : load_f16_some(a.scales + key, n));
  }
}

// Four queries at a time; those from n_queries on repeat the last one.
__attribute__((noinline)) void prepare_queries(const SketchScoresArgs& a, SketchBlock& block) {
  const int64_t stride = sketch_query_stride(a.dim);
  const __m256i factor = _mm256_set1_epi16(a.bits == 1 ? -1 : -3);
  for (int64_t i = 0; i < a.n_queries; i += 4) {
    __m256i sums[4];
    for (int q = 0; q < 4; ++q) {
      const int8_t* query = a.queries + smaller(i + q, a.n_queries - 1) * stride;
      sums[q] = _mm256_setzero_si256();
      for (int64_t c = 0; c < stride; c += 32) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query + c));
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        sums[q] = _mm256_add_epi32(sums[q], _mm256_madd_epi16(pairs, factor));
      }
    }
    const __m256i halves = _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
    const __m128i whole = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(block.starts + i), whole);
  }
}

// sum[q][k] += sum(u q) over four dimensions, in 16 bits, of Q queries and K vectors of keys.
template <int Q, int K>
SQUEEZE_INLINE void add_group(const int8_t* queries, int64_t stride, const uint8_t* levels, IntVec (&sum)[Q][K]) {
  IntVec keys[K];
  for (int k = 0; k < K; ++k) keys[k] = load_bytes(levels + 4 * k * kLanes);
  for (int q = 0; q < Q; ++q) {
    int32_t four;
    __builtin_memcpy(&four, queries + q * stride, 4);
    for (int k = 0; k < K; ++k) {
      sum[q][k] = add_i16(sum[q][k], multiply_u8_i8(keys[k], broadcast_int(four)));
      __asm__("" : "+v"(sum[q][k]));  // stays in its register: GCC reassociates integer sums, and spills
    }
  }
}

// The same over n_dims dimensions, a multiple of 32, from zero.
template <int Q, int K>
SQUEEZE_INLINE void narrow_product(const int8_t* queries, int64_t stride, int64_t n_dims, const uint8_t* levels,
                                   IntVec (&sum)[Q][K]) {
  for (int q = 0; q < Q; ++q) {
    for (int k = 0; k < K; ++k) sum[q][k] = broadcast_int(0);
  }
  for (int64_t c = 0; c < n_dims; c += 32, levels += 8 * kGroupBytes) {
    for (int g = 0; g < 8; ++g) add_group<Q, K>(queries + c + 4 * g, stride, levels + g * kGroupBytes, sum);
  }
}

// Queries [i, i + Q) against K vectors of keys, the first one `key`, to out [Q, out_stride].
template <int Q, int K>
SQUEEZE_INLINE void sketch_tile(const SketchScoresArgs& a, const SketchBlock& block, int64_t i, int64_t key, float* out,
                                int64_t out_stride) {
  const int64_t stride = sketch_query_stride(a.dim);
  const int8_t* queries = a.queries + i * stride;
  const uint8_t* levels = block.levels + 4 * key;
  IntVec narrow[Q][K], total[Q][K];
  narrow_product<Q, K>(queries, stride, smaller(stride, kNarrowDims), levels, narrow);
  for (int q = 0; q < Q; ++q) {
    const IntVec start = broadcast_int(block.starts[i + q]);
    for (int k = 0; k < K; ++k) total[q][k] = add_i32(start, twice_pair_sums(narrow[q][k]));
  }
  for (int64_t c = kNarrowDims; c < stride; c += kNarrowDims) {
    narrow_product<Q, K>(queries + c, stride, smaller(stride - c, kNarrowDims), levels + c / 4 * kGroupBytes, narrow);
    for (int q = 0; q < Q; ++q) {
      for (int k = 0; k < K; ++k) total[q][k] = add_i32(total[q][k], twice_pair_sums(narrow[q][k]));
    }
  }
  for (int q = 0; q < Q; ++q) {
    const Vec offset = broadcast(a.offsets ? a.offsets[(i + q) * a.offset_stride] : 0.0f);
    const Vec query_scale = broadcast(a.query_scales[i + q]);
    for (int k = 0; k < K; ++k) {
      const Vec scale = mul(query_scale, load_f32(block.scales + key + k * kLanes));
      store_f32(out + q * out_stride + k * kLanes, add(offset, mul(scale, float_of(total[q][k]))));
    }
  }
}

// Queries [i, i + Q) against all keys of the block. Not inlined: on its own the sums get registers.
template <int Q>
__attribute__((noinline)) void sketch_rows(const SketchScoresArgs& a, const SketchBlock& block, int64_t i) {
  float* out = a.out + i * a.out_stride;
  if (a.n_rows < kLanes) {
    float whole[Q * kLanes];
    sketch_tile<Q, 1>(a, block, i, 0, whole, kLanes);
    for (int q = 0; q < Q; ++q) {
      for (int64_t key = 0; key < a.n_rows; ++key) out[q * a.out_stride + key] = whole[q * kLanes + key];
    }
    return;
  }
  int64_t key = 0;
  for (; key + 2 * kLanes <= a.n_rows; key += 2 * kLanes) sketch_tile<Q, 2>(a, block, i, key, out + key, a.out_stride);
  for (; key < a.n_rows; key += kLanes) {  // the last vector ends at the last key and may overlap the one before
    const int64_t first = smaller(key, a.n_rows - kLanes);
    sketch_tile<Q, 1>(a, block, i, first, out + first, a.out_stride);
  }
}

// At most kSketchQueries by kSketchKeys.
SQUEEZE_INLINE void sketch_block(const SketchScoresArgs& a, SketchBlock& block) {
  prepare_keys(a, block);
  int64_t i = 0;
  for (; i + 4 <= a.n_queries; i += 4) sketch_rows<4>(a, block, i);
  for (; i < a.n_queries; ++i) sketch_rows<1>(a, block, i);
}

inline void sketch_scores(const SketchScoresArgs& a) {
  SketchBlock block;
  for (int64_t i = 0; i < a.n_queries; i += kSketchQueries) {
    SketchScoresArgs part = a;
    part.queries += i * sketch_query_stride(a.dim);
    part.n_queries = smaller(kSketchQueries, a.n_queries - i);
    part.query_scales += i;
    if (a.offsets) part.offsets += i * a.offset_stride;
    prepare_queries(part, block);
    for (int64_t j = 0; j < a.n_rows; j += kSketchKeys) {
      const int64_t first = j == 0 ? 0 : smaller(j, a.n_rows - kLanes);  // no block of few keys but the first
      part.codes = a.codes + first * a.bits * ((a.dim + 7) / 8);
      part.scales = a.scales + first;
      part.n_rows = smaller(kSketchKeys, a.n_rows - first);
      part.out = a.out + i * a.out_stride + first;
      sketch_block(part, block);
    }
  }
}

}  // namespace
}  // namespace squeeze
