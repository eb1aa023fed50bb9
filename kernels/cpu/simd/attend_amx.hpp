// attend on AMX tiles: bf16 rows, dim a multiple of 32.
//
// Queries go in groups of eight. Each query, and each weight of the softmax, is the sum of two bf16 numbers
// (two_terms): column i of a group's tiles holds the high terms of query i, column 8 + i the low ones. So a group fills
// the tiles, and both products are as exact as float32 ones but for 2^-17 of the factors. Rows come in blocks of 64:
// logits = keys * queries, with keys as they lie in memory; online softmax, two keys by eight queries in a vector;
// weights * values, with the values of two rows interleaved first, and added to accumulators in float32. The next
// block is fetched meanwhile. A query's result does not depend on the other queries of its call.
#pragma once

#include "kernels/cpu/simd/amx_block.hpp"

namespace squeeze {
namespace {

// logits[k] = the products of key k with the group's columns; the first group fetches the next block's keys.
inline void multiply_keys(const AttendArgs& a, const AmxGroup& g, int n_rows, bool fetches, AmxScratch& s) {
  for (int k = 0; k < n_rows; k += kAmxStep) {
    // Of an odd number of tiles the last is multiplied twice.
    const SixteenKeys &first = s.tiles[k / 16], &second = s.tiles[k + 16 < n_rows ? k / 16 + 1 : k / 16];
    clear_tile<0>();
    clear_tile<1>();
    for (int64_t c = 0; c < a.dim; c += 32) {
      for (int i = 0; fetches && i < kAmxStep; ++i) prefetch_line(s.next_keys[k + i] + 2 * c);
      load_tile<2>(g.queries[c / 32], 64);
      load_tile<3>(first.first + 2 * c, first.stride);
      add_product<0, 3, 2>();
      load_tile<4>(second.first + 2 * c, second.stride);
      add_product<1, 4, 2>();
    }
    store_tile<0>(s.logits[k], 64);
    store_tile<1>(s.logits[k + 16], 64);
  }
}

// x in lanes 0 to 7, y in the others.
SQUEEZE_INLINE Vec two_halves(float x, float y) { return _mm512_mask_mov_ps(broadcast(x), 0xff00, broadcast(y)); }
SQUEEZE_INLINE IntVec two_halves_int(int32_t x, int32_t y) {
  return _mm512_mask_mov_epi32(broadcast_int(x), 0xff00, broadcast_int(y));
}
SQUEEZE_INLINE Vec swap_halves(Vec x) { return _mm512_shuffle_f32x4(x, x, 0x4e); }

// The logits of rows k and k + 1 with all queries of the group, scaled and with bias; -infinity for what a query does
// not see.
SQUEEZE_INLINE Vec pair_of_logits(const AttendArgs& a, const AmxRows& rows, const AmxScratch& s, IntVec visible, int k,
                                  bool whole) {
  const Vec x = load_f32(s.logits[k]), y = load_f32(s.logits[k + 1]);
  Vec logit = add(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  logit = mul(logit, broadcast(a.scale));
  if (whole) return logit;
  logit = add(logit, two_halves(rows.bias[k], rows.bias[k + 1]));
  return keep_if_less(logit, two_halves_int(rows.row[k], rows.row[k + 1]), visible);
}

// Turns the group's logits into weights, moves its maximum and sum on, and leaves the factor for earlier sums.
inline void weigh_rows(const AttendArgs& a, const AmxRows& rows, bool whole, AmxGroup& g, AmxScratch& s) {
  const IntVec visible = load_int(g.visible);
  const Vec old_max = load_f32(g.max);
  const int n = (rows.n + kAmxStep - 1) / kAmxStep * kAmxStep;
  Vec new_max = old_max, pairs[kAmxBlock / 2];
  for (int k = 0; k < n; k += 2) {
    pairs[k / 2] = pair_of_logits(a, rows, s, visible, k, whole);
    new_max = max(pairs[k / 2], new_max);
  }
  new_max = max(new_max, swap_halves(new_max));
  const Vec shift = finite_or_zero(new_max);  // with nothing seen so far every weight must come out 0, not NaN
  const Vec shrink = exp(sub(old_max, shift));
  Vec total = mul(load_f32(g.sum), shrink);
  for (int k = 0; k < n; k += kAmxStep) {
    __m512i columns[kAmxHalf];
    for (int p = 0; p < kAmxHalf; ++p) {
      const Vec e = exp(sub(pairs[k / 2 + p], shift));
      total = add(total, e);
      const TwoTerms w = two_terms(e);
      const __m512i even = _mm512_shuffle_i32x4(w.high, w.low, 0x44), odd = _mm512_shuffle_i32x4(w.high, w.low, 0xee);
      columns[p] = _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
    }
    transpose_tile(columns);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(s.weights[k / kAmxStep][i], columns[i]);
  }
  store_f32(g.max, new_max);
  store_f32(g.sum, total);
  store_f32(s.shrink, shrink);
}

// acc = acc * shrink + weights * values
inline void multiply_values(const AttendArgs& a, int n_rows, AmxGroup& g, AmxScratch& s) {
  const bool both = n_rows > kAmxStep;
  load_tile<6>(s.weights[0], 64);
  if (both) load_tile<7>(s.weights[1], 64);
  for (int64_t c = 0; c < a.dim; c += 32) {
    clear_tile<0>();
    clear_tile<1>();
    load_tile<2>(s.packed[0][c / 16], 64);
    load_tile<3>(s.packed[0][c / 16 + 1], 64);
    add_product<0, 6, 2>();
    add_product<1, 6, 3>();
    if (both) {
      load_tile<4>(s.packed[1][c / 16], 64);
      load_tile<5>(s.packed[1][c / 16 + 1], 64);
      add_product<0, 7, 4>();
      add_product<1, 7, 5>();
    }
    store_tile<0>(s.product[0], 64);
    store_tile<1>(s.product[1], 64);
    for (int i = 0; i < g.n; ++i) {
      const Vec shrink = broadcast(s.shrink[i]);
      for (int t = 0; t < 2; ++t) {
        float* acc = g.acc[i] + c + 16 * t;
        const Vec added = add(load_f32(s.product[t][i]), load_f32(s.product[t][8 + i]));
        store_f32(acc, fma(load_f32(acc), shrink, added));
      }
    }
  }
}

// All queries of the call, at most kAmxGroups groups, against one block of rows.
inline void attend_rows(const AttendArgs& a, const AmxRows& rows, AmxScratch& s) {
  int32_t last = 0;
  for (const int32_t row : rows.row) last = row > last ? row : last;
  const bool whole = !a.row_bias && last < s.min_visible;
  place_keys(rows, s);
  pack_values(a, rows, s);
  for (int g = 0; g * kAmxGroup < a.n_queries; ++g) {
    multiply_keys(a, s.groups[g], rows.n, g == 0, s);
    weigh_rows(a, rows, whole, s.groups[g], s);
    multiply_values(a, rows.n, s.groups[g], s);
  }
}

inline void attend_queries(const AttendArgs& a, AmxScratch& s) {
  RowCursor cursor(a);
  AmxRows *rows = &s.blocks[0], *next = &s.blocks[1];
  cursor.take(*rows);
  if (rows->n == 0) return;
  s.row_bytes = a.dim * 2;
  s.min_visible = kNoRow;
  for (int64_t i = 0; i < a.n_queries; ++i) {
    const int32_t visible = visible_rows(a, i);
    s.min_visible = visible < s.min_visible ? visible : s.min_visible;
  }
  for (int64_t i = 0; i < a.n_queries; i += kAmxGroup) open_group(a, i, s.groups[i / kAmxGroup]);
  point_at_block(a, *rows, s.row_bytes, s.keys, s.values);
  while (rows->n > 0) {
    cursor.take(*next);
    point_at_block(a, next->n ? *next : *rows, s.row_bytes, s.next_keys, s.next_values);
    attend_rows(a, *rows, s);
    for (int k = 0; k < kAmxBlock; ++k) {
      s.keys[k] = s.next_keys[k];
      s.values[k] = s.next_values[k];
    }
    AmxRows* done = rows;
    rows = next;
    next = done;
  }
  for (int64_t i = 0; i < a.n_queries; i += kAmxGroup) close_group(a, i, s.groups[i / kAmxGroup]);
}

__attribute__((noinline)) void attend_amx(const AttendArgs& a) {
  AmxScratch s;
  open_tiles();
  for (int64_t i = 0; i < a.n_queries; i += kAmxGroup * kAmxGroups) {
    AttendArgs part = a;
    part.queries += i * a.dim;
    part.n_queries = smaller(kAmxGroup * kAmxGroups, a.n_queries - i);
    if (a.visible) part.visible += i;
    part.acc += i * a.dim;
    part.max += i;
    part.sum += i;
    attend_queries(part, s);
  }
  close_tiles();
}

}  // namespace
}  // namespace squeeze
