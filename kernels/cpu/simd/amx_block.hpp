// What attend on AMX tiles works on: groups of queries, blocks of rows, and their tiles.
//
// Queries go in groups of eight. A query is the sum of two bf16 numbers (two_terms): column i of a group's tiles holds
// the high terms of query i, column 8 + i the low ones. Keys are loaded as they lie; the values of two rows are
// interleaved first.
#pragma once

#include "kernels/cpu/simd/amx_tiles.hpp"
#include "kernels/cpu/simd/row_cursor.hpp"

namespace squeeze {
namespace {

constexpr int kAmxGroup = 8;   // queries of a group
constexpr int kAmxGroups = 8;  // groups that share a pass over the rows
constexpr int kAmxBlock = 64;  // rows of a block
constexpr int kAmxStep = 32;   // rows of a product: a tile holds this many bf16 numbers of a row
constexpr int kAmxHalf = kAmxStep / 2;
constexpr int kAmxSteps = kAmxBlock / kAmxStep;

using AmxRows = RowBlock<kAmxBlock>;

struct AmxGroup {
  // [dim / 32] tiles: row p holds elements 2p and 2p + 1 of each column.
  alignas(64) uint32_t queries[kMaxHeadDim / 32][16][16];
  alignas(64) float acc[kAmxGroup][kMaxHeadDim];  // columns in the order of pack_values
  alignas(64) float max[16];                      // lanes i and 8 + i: of query i
  alignas(64) float sum[16];                      // lanes i and 8 + i: parts of query i's sum
  alignas(64) int32_t visible[16];                // likewise; unused queries see nothing
  int n;
};

struct SixteenKeys {
  const char* first;
  int64_t stride;  // bytes
};

struct AmxScratch {
  AmxGroup groups[kAmxGroups];
  AmxRows blocks[2];
  const char* keys[kAmxBlock];  // of the block at work, the last row repeated
  const char* values[kAmxBlock];
  const char* next_keys[kAmxBlock];
  const char* next_values[kAmxBlock];
  SixteenKeys tiles[kAmxBlock / 16];
  alignas(64) char copied[kAmxBlock * kMaxHeadDim * 2];              // keys that do not lie side by side
  alignas(64) uint32_t packed[kAmxSteps][kMaxHeadDim / 16][16][16];  // [step, column tile, pair of rows, column]
  alignas(64) float logits[kAmxBlock][16];                           // products of a row with the columns
  alignas(64) uint32_t weights[kAmxSteps][16][16];                   // [step, column, pair of rows]
  alignas(64) float product[2][16][16];
  alignas(64) float shrink[16];
  int64_t row_bytes;
  int32_t min_visible;
};

SQUEEZE_INLINE void prefetch_line(const char* p) { _mm_prefetch(p, _MM_HINT_T1); }

inline void open_group(const AttendArgs& a, int64_t first, AmxGroup& g) {
  g.n = static_cast<int>(smaller(kAmxGroup, a.n_queries - first));
  __builtin_memset(g.queries, 0, static_cast<size_t>(a.dim / 32 * kTileBytes));
  for (int i = 0; i < 16; ++i) {
    const bool used = i % 8 < g.n;
    g.max[i] = used ? a.max[first + i % 8] : -__builtin_inff();
    g.sum[i] = used && i < 8 ? a.sum[first + i] : 0.0f;
    g.visible[i] = used ? visible_rows(a, first + i % 8) : 0;
  }
  for (int i = 0; i < g.n; ++i) {
    const float* query = a.queries + (first + i) * a.dim;
    const float* acc = a.acc + (first + i) * a.dim;
    for (int64_t c = 0; c < a.dim; c += 16) {
      const TwoTerms x = two_terms(load_f32(query + c));
      alignas(64) uint16_t high[16], low[16];
      store_half(high, _mm512_cvtepi32_epi16(_mm512_srli_epi32(x.high, 16)));
      store_half(low, _mm512_cvtepi32_epi16(_mm512_srli_epi32(x.low, 16)));
      for (int p = 0; p < 8; ++p) {
        uint32_t* row = g.queries[c / 32][c % 32 / 2 + p];
        __builtin_memcpy(row + i, high + 2 * p, 4);
        __builtin_memcpy(row + 8 + i, low + 2 * p, 4);
      }
    }
    for (int64_t c = 0; c < a.dim; c += 32) {
      const Vec x = load_f32(acc + c), y = load_f32(acc + c + 16);
      store_f32(g.acc[i] + c, _mm512_shuffle_f32x4(x, y, 0x88));
      store_f32(g.acc[i] + c + 16, _mm512_shuffle_f32x4(x, y, 0xdd));
    }
  }
}

inline void close_group(const AttendArgs& a, int64_t first, const AmxGroup& g) {
  for (int i = 0; i < g.n; ++i) {
    float* acc = a.acc + (first + i) * a.dim;
    for (int64_t c = 0; c < a.dim; c += 32) {
      const Vec x = load_f32(g.acc[i] + c), y = load_f32(g.acc[i] + c + 16);
      const Vec low = _mm512_shuffle_f32x4(x, y, 0x44), high = _mm512_shuffle_f32x4(x, y, 0xee);
      store_f32(acc + c, _mm512_shuffle_f32x4(low, low, 0xd8));
      store_f32(acc + c + 16, _mm512_shuffle_f32x4(high, high, 0xd8));
    }
    a.max[first + i] = g.max[i];
    a.sum[first + i] = g.sum[i] + g.sum[8 + i];
  }
}

inline void point_at_block(const AttendArgs& a, const AmxRows& rows, int64_t row_bytes, const char** keys,
                           const char** values) {
  for (int k = 0; k < kAmxBlock; ++k) {
    const int64_t row = rows.n == 0 ? 0 : rows.row[k < rows.n ? k : rows.n - 1];
    keys[k] = static_cast<const char*>(a.keys) + row * row_bytes;
    values[k] = static_cast<const char*>(a.values) + row * row_bytes;
  }
}

// Where the tiles of keys are loaded from: where they lie, or a copy.
inline void place_keys(const AmxRows& rows, AmxScratch& s) {
  const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int t = 0; t < kAmxBlock / 16 && 16 * t < rows.n; ++t) {
    const int32_t* row = rows.row + 16 * t;
    s.tiles[t] = {s.keys[16 * t], s.row_bytes};
    const IntVec side_by_side = _mm512_add_epi32(broadcast_int(row[0]), places);
    if (16 * t + 16 <= rows.n && _mm512_cmpneq_epi32_mask(load_int(row), side_by_side) == 0) continue;
    char* copy = s.copied + 16 * t * s.row_bytes;
    for (int k = 0; k < 16; ++k) {
      for (int64_t i = 0; i < s.row_bytes; i += 64) {
        _mm512_storeu_si512(copy + k * s.row_bytes + i, _mm512_loadu_si512(s.keys[16 * t + k] + i));
      }
    }
    s.tiles[t].first = copy;
  }
}

// The values of rows 2p and 2p + 1 interleaved, as row p of the tiles of 16 columns; fetches the next block's. Of each
// 32 columns the first tile has 0-3, 8-11, 16-19 and 24-27, the second the others.
inline void pack_values(const AttendArgs& a, const AmxRows& rows, AmxScratch& s) {
  for (int k = 0; k < kAmxBlock && k / kAmxStep * kAmxStep < rows.n; k += 2) {
    for (int64_t c = 0; c < a.dim; c += 32) {
      prefetch_line(s.next_values[k] + 2 * c);
      prefetch_line(s.next_values[k + 1] + 2 * c);
      const __m512i x = _mm512_loadu_si512(s.values[k] + 2 * c), y = _mm512_loadu_si512(s.values[k + 1] + 2 * c);
      auto* tiles = s.packed[k / kAmxStep] + c / 16;
      _mm512_store_si512(tiles[0][k % kAmxStep / 2], _mm512_unpacklo_epi16(x, y));
      _mm512_store_si512(tiles[1][k % kAmxStep / 2], _mm512_unpackhi_epi16(x, y));
    }
  }
}

}  // namespace
}  // namespace squeeze
