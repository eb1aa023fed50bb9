// sketch_scores: sums of table entries, keys in the lanes (the scheme of André, Kermarrec and Le Scouarnec, "Cache
// locality is not enough: high-performance nearest neighbor search with product quantization fast scan", VLDB 2015).
//
// The codes of 32 keys are transposed once for all queries, so that a vector holds the same eight bits of 32 keys. Four
// bits look up, by one byte shuffle, what their dimensions add to a query's dot. Four entries fit eight
// bits; their sums are added in sixteen. Fast because no sum crosses lanes, four queries share what is done to a code,
// and the scores come out in the order of the keys. Vectors have 32 bytes under every instruction set.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

constexpr int64_t kSketchKeys = 32;  // of a block: as many bytes as a vector has

struct SketchBlock {
  alignas(64) uint8_t columns[kMaxCodeBytes * kSketchKeys];  // [code bytes, kSketchKeys]
  alignas(64) float scales[kSketchKeys];
  alignas(64) float scores[kSketchKeys];  // of a block with fewer keys
  // Of a block whose keys do not follow one another, or are fewer.
  alignas(64) uint8_t codes[kMaxCodeBytes * kSketchKeys];
  alignas(64) uint16_t f16_scales[kSketchKeys];
};

// The next n bytes of a row, at most eight; zeros behind them.
SQUEEZE_INLINE __m128i load_word(const uint8_t* row, int64_t n) {
  if (n >= 8) return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(row));
  uint64_t word = 0;
  for (int64_t i = 0; i < n; ++i) word |= static_cast<uint64_t>(row[i]) << (8 * i);
  return _mm_cvtsi64_si128(static_cast<long long>(word));
}

SQUEEZE_INLINE __m256i join(__m128i low, __m128i high) {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

// Byte c of row i to byte i of row c, in each half of the vectors: the perfect shuffle, four times.
SQUEEZE_INLINE void transpose_bytes(__m256i (&rows)[16]) {
  for (int round = 0; round < 4; ++round) {
    __m256i next[16];
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = _mm256_unpacklo_epi8(rows[i], rows[i + 8]);
      next[2 * i + 1] = _mm256_unpackhi_epi8(rows[i], rows[i + 8]);
    }
    for (int i = 0; i < 16; ++i) rows[i] = next[i];
  }
}

// columns[c] = byte c of 32 codes.
SQUEEZE_INLINE void transpose_codes(const uint8_t* codes, int64_t code_bytes, uint8_t* columns) {
  __m256i rows[16];
  int64_t begin = 0;
  for (; begin + 16 <= code_bytes; begin += 16) {
    for (int i = 0; i < 16; ++i) {
      const uint8_t* row = codes + i * code_bytes + begin;
      rows[i] = join(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row)),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 16 * code_bytes)));
    }
    transpose_bytes(rows);
    for (int c = 0; c < 16; ++c) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(columns + (begin + c) * kSketchKeys), rows[c]);
    }
  }
  for (; begin < code_bytes; begin += 8) {
    const int64_t n = smaller(8, code_bytes - begin);
    for (int i = 0; i < 16; ++i) {
      const uint8_t* row = codes + i * code_bytes + begin;
      rows[i] = join(load_word(row, n), load_word(row + 16 * code_bytes, n));
    }
    transpose_bytes(rows);
    for (int c = 0; c < n; ++c) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(columns + (begin + c) * kSketchKeys), rows[c]);
    }
  }
}

// The rows that sketch_scores reads, taken from its ranges a block at a time.
class SketchCursor {
 public:
  explicit SketchCursor(const SketchScoresArgs& args) : args_(args), code_bytes_(args.code_bytes) {
    if (args.n_ranges > 0) next_ = args.ranges[0].begin;
  }

  // Fills the block with the next keys and returns how many there are.
  int64_t take(SketchBlock& block) {
    while (range_ < args_.n_ranges && next_ == args_.ranges[range_].end) open_range();
    if (range_ == args_.n_ranges) return 0;
    if (args_.ranges[range_].end - next_ >= kSketchKeys) {
      const int64_t row = next_ - args_.first_row;
      transpose_codes(args_.codes + row * code_bytes_, code_bytes_, block.columns);
      widen_scales(args_.scales + row, block.scales);
      next_ += static_cast<int32_t>(kSketchKeys);
      return kSketchKeys;
    }
    const int64_t n = gather(block);
    transpose_codes(block.codes, code_bytes_, block.columns);
    widen_scales(block.f16_scales, block.scales);
    return n;
  }

 private:
  void open_range() {
    if (++range_ < args_.n_ranges) next_ = args_.ranges[range_].begin;
  }

  static void widen_scales(const uint16_t* in, float* out) {
    for (int64_t i = 0; i < kSketchKeys; i += kLanes) store_f32(out + i, load_f16(in + i));
  }

  // Copies the next keys, of several ranges, side by side.
  int64_t gather(SketchBlock& block) {
    int64_t n = 0;
    while (n < kSketchKeys && range_ < args_.n_ranges) {
      const int64_t taken = smaller(kSketchKeys - n, args_.ranges[range_].end - next_);
      const int64_t row = next_ - args_.first_row;
      __builtin_memcpy(block.codes + n * code_bytes_, args_.codes + row * code_bytes_,
                       static_cast<size_t>(taken * code_bytes_));
      __builtin_memcpy(block.f16_scales + n, args_.scales + row, static_cast<size_t>(taken) * sizeof(uint16_t));
      n += taken;
      next_ += static_cast<int32_t>(taken);
      if (next_ == args_.ranges[range_].end) open_range();
    }
    return n;
  }

  const SketchScoresArgs& args_;
  int64_t code_bytes_;
  int64_t range_ = 0;
  int32_t next_ = 0;
};

// Sums of 16-bit lanes. total: of the bytes of keys with even numbers and, times 256, of those with odd ones.
struct KeySums {
  __m256i total = _mm256_setzero_si256(), odd = _mm256_setzero_si256();

  SQUEEZE_INLINE void add_bytes(__m256i x) {
    total = _mm256_add_epi16(total, x);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(x, 8));
  }
  SQUEEZE_INLINE __m256i even() const { return _mm256_sub_epi16(total, _mm256_slli_epi16(odd, 8)); }
};

SQUEEZE_INLINE __m256i look_up(const uint8_t* entries, __m256i index) {
  const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries));
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index);
}

// Adds Q queries' entries, two bytes of the codes at a time.
template <int Q>
SQUEEZE_INLINE void add_entries(const uint8_t* tables, int64_t table_bytes, const uint8_t* columns, int64_t n_bytes,
                                KeySums (&sums)[Q]) {
  const __m256i low_bits = _mm256_set1_epi8(0x0f);
  for (int64_t c = 0; c < n_bytes; c += 2) {
    const bool two = c + 1 < n_bytes;
    __m256i index[4];
    for (int i = 0; i < (two ? 2 : 1); ++i) {
      const __m256i column = _mm256_load_si256(reinterpret_cast<const __m256i*>(columns + (c + i) * kSketchKeys));
      index[2 * i] = _mm256_and_si256(column, low_bits);
      index[2 * i + 1] = _mm256_and_si256(_mm256_srli_epi16(column, 4), low_bits);
    }
    for (int q = 0; q < Q; ++q) {
      const uint8_t* table = tables + q * table_bytes + 32 * c;
      __m256i sum = _mm256_add_epi8(look_up(table, index[0]), look_up(table + 16, index[1]));
      if (two) {
        sum = _mm256_add_epi8(sum, _mm256_add_epi8(look_up(table + 32, index[2]), look_up(table + 48, index[3])));
      }
      sums[q].add_bytes(sum);
    }
  }
}

// The scores of 32 keys.
SQUEEZE_INLINE void store_scores(__m256i even, __m256i odd, float query_scale, const float* scales, float* out) {
  const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
  const __m128i eights[4] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high),
                             _mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1)};
  const __m256 factor = _mm256_set1_ps(query_scale);
  for (int i = 0; i < 4; ++i) {
    const __m256 scale = _mm256_mul_ps(factor, _mm256_load_ps(scales + 8 * i));
    const __m256 dot = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(eights[i]));
    _mm256_storeu_ps(out + 8 * i, _mm256_mul_ps(scale, dot));
  }
}

// Queries [i, i + Q) against the n keys of the block, which are the columns of out from j on.
template <int Q>
SQUEEZE_INLINE void sketch_rows(const SketchScoresArgs& a, SketchBlock& block, int64_t i, int64_t j, int64_t n) {
  const int64_t table_bytes = sketch_table_bytes(a.code_bytes);
  const uint8_t* tables = a.tables + i * table_bytes;
  KeySums sums[Q];
  add_entries<Q>(tables, table_bytes, block.columns, a.code_bytes, sums);
  const __m256i zero = _mm256_set1_epi16(static_cast<int16_t>(2 * a.code_bytes * kSketchTableZero));
  for (int q = 0; q < Q; ++q) {
    float* out = a.out + (i + q) * a.out_stride + j;
    const __m256i even = _mm256_sub_epi16(sums[q].even(), zero), odd = _mm256_sub_epi16(sums[q].odd, zero);
    store_scores(even, odd, a.query_scales[i + q], block.scales, n == kSketchKeys ? out : block.scores);
    for (int64_t key = 0; n < kSketchKeys && key < n; ++key) out[key] = block.scores[key];
  }
}

inline void sketch_scores(const SketchScoresArgs& a) {
  SketchBlock block;
  __builtin_memset(block.codes, 0, static_cast<size_t>(kSketchKeys * a.code_bytes));
  __builtin_memset(block.f16_scales, 0, sizeof block.f16_scales);
  SketchCursor cursor(a);
  int64_t j = 0;
  for (int64_t n = cursor.take(block); n > 0; j += n, n = cursor.take(block)) {
    int64_t i = 0;
    for (; i + 4 <= a.n_queries; i += 4) sketch_rows<4>(a, block, i, j, n);
    if (a.n_queries - i == 3) sketch_rows<3>(a, block, i, j, n);
    if (a.n_queries - i == 2) sketch_rows<2>(a, block, i, j, n);
    if (a.n_queries - i == 1) sketch_rows<1>(a, block, i, j, n);
  }
}

}  // namespace
}  // namespace squeeze
