// sketch_scores: sums of table entries, keys in the lanes (the scheme of André, Kermarrec and Le Scouarnec, "Cache
// locality is not enough: high-performance nearest neighbor search with product quantization fast scan", VLDB 2015).
//
// The codes of 32 keys are transposed once for all queries, so that a vector holds the same four dimensions of 32 keys.
// Those four bits look up, by one byte shuffle, what the dimensions add to a query's dot. Four entries fit eight bits;
// their sums are added in sixteen, keys with even and odd numbers apart. Fast because no sum crosses lanes and the
// scores come out in the order of the keys. Vectors have 32 bytes under every instruction set.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

constexpr int64_t kSketchKeys = 32;  // of a block: as many bytes as a vector has

struct SketchBlock {
  alignas(64) uint8_t nibbles[2 * kMaxHeadDim / 4 * kSketchKeys];  // [planes * four dimensions, kSketchKeys]
  alignas(64) float scales[kSketchKeys];
  alignas(64) float whole[kSketchKeys];  // scores of a block with fewer keys
};

// The next n bytes of a row, at most eight; zeros behind them.
SQUEEZE_INLINE __m128i load_word(const uint8_t* row, int64_t n) {
  if (n >= 8) return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row));
  uint64_t word = 0;
  for (int64_t i = 0; i < n; ++i) word |= static_cast<uint64_t>(row[i]) << (8 * i);
  return _mm_cvtsi64_si128(static_cast<long long>(word));
}

// column[c] = byte c of 32 rows; rows i and 16 + i come in the two halves of rows[i], in their first eight bytes.
SQUEEZE_INLINE void transpose_words(const __m256i (&rows)[16], __m256i (&column)[8]) {
  __m256i two[8], four[2][4], eight[2][4];
  for (int i = 0; i < 8; ++i) two[i] = _mm256_unpacklo_epi8(rows[2 * i], rows[2 * i + 1]);
  for (int i = 0; i < 4; ++i) {
    four[0][i] = _mm256_unpacklo_epi16(two[2 * i], two[2 * i + 1]);
    four[1][i] = _mm256_unpackhi_epi16(two[2 * i], two[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half) {
    for (int part = 0; part < 2; ++part) {
      eight[half][2 * part] = _mm256_unpacklo_epi32(four[part][2 * half], four[part][2 * half + 1]);
      eight[half][2 * part + 1] = _mm256_unpackhi_epi32(four[part][2 * half], four[part][2 * half + 1]);
    }
  }
  for (int pair = 0; pair < 4; ++pair) {
    column[2 * pair] = _mm256_unpacklo_epi64(eight[0][pair], eight[1][pair]);
    column[2 * pair + 1] = _mm256_unpackhi_epi64(eight[0][pair], eight[1][pair]);
  }
}

// One plane of keys [0, 32) of a block; those from n_rows on repeat the last one.
SQUEEZE_INLINE void split_plane(const SketchScoresArgs& a, int64_t plane, uint8_t* out) {
  const int64_t plane_bytes = (a.dim + 7) / 8;
  const uint8_t* codes = a.codes + plane * plane_bytes;
  const auto row = [&](int64_t i) { return codes + smaller(i, a.n_rows - 1) * a.bits * plane_bytes; };
  const __m256i low_bits = _mm256_set1_epi8(0x0f);
  for (int64_t begin = 0; begin < plane_bytes; begin += 8) {
    const int64_t n = smaller(8, plane_bytes - begin);
    __m256i words[16], column[8];
    for (int i = 0; i < 16; ++i) {
      const __m128i low = load_word(row(i) + begin, n), high = load_word(row(i + 16) + begin, n);
      words[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    transpose_words(words, column);
    for (int64_t c = 0; c < n; ++c, out += 2 * kSketchKeys) {
      const __m256i high = _mm256_srli_epi16(column[c], 4);
      _mm256_store_si256(reinterpret_cast<__m256i*>(out), _mm256_and_si256(column[c], low_bits));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + kSketchKeys), _mm256_and_si256(high, low_bits));
    }
  }
}

__attribute__((noinline)) void prepare_keys(const SketchScoresArgs& a, SketchBlock& block) {
  const int64_t plane_bytes = (a.dim + 7) / 8;
  for (int64_t p = 0; p < a.bits; ++p) split_plane(a, p, block.nibbles + p * 2 * plane_bytes * kSketchKeys);
  for (int64_t key = 0; key < a.n_rows; key += kLanes) {
    const int64_t n = smaller(kLanes, a.n_rows - key);
    store_f32(block.scales + key, n == kLanes ? load_f16(a.scales + key) : load_f16_some(a.scales + key, n));
  }
}

// Sums of 16-bit lanes: of the keys with even numbers, and of those with odd ones.
struct KeySums {
  __m256i even = _mm256_setzero_si256(), odd = _mm256_setzero_si256();

  SQUEEZE_INLINE void add_bytes(__m256i x) {
    even = _mm256_add_epi16(even, _mm256_and_si256(x, _mm256_set1_epi16(0xff)));
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(x, 8));
  }
  SQUEEZE_INLINE void add_to_all(__m256i x) {
    even = _mm256_add_epi16(even, x);
    odd = _mm256_add_epi16(odd, x);
  }
  SQUEEZE_INLINE void double_all() {
    even = _mm256_add_epi16(even, even);
    odd = _mm256_add_epi16(odd, odd);
  }
};

// The entries of N groups of four dimensions, at most four, added up in bytes.
template <int N>
SQUEEZE_INLINE __m256i look_up(const uint8_t* table, const uint8_t* nibbles) {
  __m256i sum = _mm256_setzero_si256();
  for (int i = 0; i < N; ++i) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * i));
    const __m256i index = _mm256_load_si256(reinterpret_cast<const __m256i*>(nibbles + i * kSketchKeys));
    const __m256i found = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(entries), index);
    sum = i == 0 ? found : _mm256_add_epi8(sum, found);
  }
  return sum;
}

// Adds one plane of Q queries' sums.
template <int Q>
SQUEEZE_INLINE void add_plane(const uint8_t* tables, int64_t table_bytes, const uint8_t* nibbles, int64_t n_bytes,
                              KeySums (&sums)[Q]) {
  int64_t c = 0;
  for (; c + 2 <= n_bytes; c += 2) {
    for (int q = 0; q < Q; ++q) {
      sums[q].add_bytes(look_up<4>(tables + q * table_bytes + 32 * c, nibbles + 2 * c * kSketchKeys));
    }
  }
  for (int q = 0; c < n_bytes && q < Q; ++q) {
    sums[q].add_bytes(look_up<2>(tables + q * table_bytes + 32 * c, nibbles + 2 * c * kSketchKeys));
  }
}

// Adds the scores of 32 keys to out.
SQUEEZE_INLINE void store_scores(const KeySums& dots, float query_scale, const float* scales, float* out) {
  const __m256i low = _mm256_unpacklo_epi16(dots.even, dots.odd), high = _mm256_unpackhi_epi16(dots.even, dots.odd);
  const __m128i eights[4] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high),
                             _mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1)};
  const __m256 factor = _mm256_set1_ps(query_scale);
  for (int i = 0; i < 4; ++i) {
    const __m256 scale = _mm256_mul_ps(factor, _mm256_load_ps(scales + 8 * i));
    const __m256 dot = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eights[i]));
    _mm256_storeu_ps(out + 8 * i, _mm256_add_ps(_mm256_loadu_ps(out + 8 * i), _mm256_mul_ps(scale, dot)));
  }
}

// Queries [i, i + Q) against the block.
template <int Q>
SQUEEZE_INLINE void sketch_rows(const SketchScoresArgs& a, SketchBlock& block, int64_t i) {
  const int64_t n_bytes = (a.dim + 7) / 8, table_bytes = sketch_table_bytes(a.dim);
  const uint8_t* tables = a.tables + i * table_bytes;
  KeySums sums[Q];
  add_plane<Q>(tables, table_bytes, block.nibbles, n_bytes, sums);
  if (a.bits == 2) {
    for (int q = 0; q < Q; ++q) sums[q].double_all();
    add_plane<Q>(tables, table_bytes, block.nibbles + 2 * n_bytes * kSketchKeys, n_bytes, sums);
  }
  const auto zero = static_cast<int16_t>(-(a.bits == 1 ? 1 : 3) * 2 * n_bytes * kSketchTableZero);
  for (int q = 0; q < Q; ++q) {
    sums[q].add_to_all(_mm256_set1_epi16(zero));
    float* out = a.out + (i + q) * a.out_stride;
    if (a.n_rows == kSketchKeys) {
      store_scores(sums[q], a.query_scales[i + q], block.scales, out);
      continue;
    }
    for (int64_t key = 0; key < a.n_rows; ++key) block.whole[key] = out[key];
    store_scores(sums[q], a.query_scales[i + q], block.scales, block.whole);
    for (int64_t key = 0; key < a.n_rows; ++key) out[key] = block.whole[key];
  }
}

inline void sketch_scores(const SketchScoresArgs& a) {
  SketchBlock block;
  for (float& x : block.scales) x = 0;
  for (float& x : block.whole) x = 0;
  for (int64_t j = 0; j < a.n_rows; j += kSketchKeys) {
    SketchScoresArgs part = a;
    part.codes += j * a.bits * ((a.dim + 7) / 8);
    part.scales += j;
    part.n_rows = smaller(kSketchKeys, a.n_rows - j);
    part.out += j;
    prepare_keys(part, block);
    int64_t i = 0;
    for (; i + 2 <= a.n_queries; i += 2) sketch_rows<2>(part, block, i);
    if (i < a.n_queries) sketch_rows<1>(part, block, i);
  }
}

}  // namespace
}  // namespace squeeze
