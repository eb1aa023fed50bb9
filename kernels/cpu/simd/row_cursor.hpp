// The rows that attend reads, taken from its ranges in blocks, so that many short ranges fill a block like a long one.
#pragma once

#include "kernels/cpu/simd/vector.hpp"

namespace squeeze {
namespace {

template <DType T>
SQUEEZE_INLINE const char* row_at(const void* matrix, int64_t dim, int32_t row) {
  return static_cast<const char*>(matrix) + row * dim * kElementBytes<T>;
}

constexpr int32_t kNoRow = 2147483647;  // above every row, hidden from every query

// visible[i] as 32 bits; a query without a limit sees every row below kNoRow.
SQUEEZE_INLINE int32_t visible_rows(const AttendArgs& a, int64_t query) {
  if (!a.visible) return kNoRow;
  const int64_t limit = a.visible[query];
  return limit < 0 ? 0 : static_cast<int32_t>(smaller(limit, kNoRow));
}

template <int kSize>
struct RowBlock {
  alignas(64) int32_t row[kSize];  // from n on: kNoRow
  alignas(64) float bias[kSize];   // from n on: 0
  int n = 0;
};

class RowCursor {
 public:
  explicit RowCursor(const AttendArgs& args) : args_(args) {
    for (int64_t i = 0; i < args.n_queries; ++i) {
      const int32_t rows = visible_rows(args, i);
      limit_ = rows > limit_ ? rows : limit_;
    }
    if (args.n_ranges > 0) next_ = args.ranges[0].begin;
  }

  // Fills the block with the next rows; leaves out rows that no query sees and rows with bias -infinity. n = 0: done.
  template <int kSize>
  void take(RowBlock<kSize>& block) {
    block.n = 0;
    while (block.n < kSize && range_ < args_.n_ranges) {
      const int32_t range_end = args_.ranges[range_].end;
      const int32_t end = range_end < limit_ ? range_end : limit_;
      if (!args_.row_bias) {
        add_plain(block, smaller(end - next_, kSize - block.n));
      } else {
        for (; next_ < end && block.n < kSize; ++next_) add(block, next_);
      }
      if (next_ < end) break;
      if (++range_ < args_.n_ranges) next_ = args_.ranges[range_].begin;
    }
    for (int i = block.n; i < kSize; ++i) {
      block.row[i] = kNoRow;
      block.bias[i] = 0.0f;
    }
  }

 private:
  template <int kSize>
  void add(RowBlock<kSize>& block, int32_t row) {
    const float bias = args_.row_bias ? args_.row_bias[row] : 0.0f;
    if (bias == -__builtin_inff()) return;
    block.row[block.n] = row;
    block.bias[block.n] = bias;
    ++block.n;
  }

  // The next n rows, n of any sign, without bias. (Many ranges are of one row: no loop that wants many.)
  template <int kSize>
  void add_plain(RowBlock<kSize>& block, int64_t n) {
    for (; n > 0; --n, ++block.n, ++next_) {
      block.row[block.n] = next_;
      block.bias[block.n] = 0.0f;
      __asm__("" ::: "memory");
    }
  }

  const AttendArgs& args_;
  int32_t limit_ = 0;
  int64_t range_ = 0;
  int32_t next_ = 0;
};

}  // namespace
}  // namespace squeeze
