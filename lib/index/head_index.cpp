// Views of a built layer, rows with scales, and cluster counts.
#include "lib/index/head_index.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/index/build.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTileRows = 64;  // rows that are widened at once

// One head's part of scales of all heads; none of none.
std::span<const float> scales_of(const std::vector<float>& scales, int64_t kv_head, int64_t n_tokens) {
  if (scales.empty()) return {};
  return {scales.data() + kv_head * n_tokens, static_cast<size_t>(n_tokens)};
}

}  // namespace

HeadView IndexLayer::head(int kv_head) const {
  const HeadIndex& index = heads[static_cast<size_t>(kv_head)];
  HeadView view{keys[kv_head], values[kv_head], index.token_of_row, n_sinks, n_window, {}};
  for (const Level& level : index.levels) view.levels.push_back(level.view());
  view.sketches = index.sketches.view();
  view.key_scales = scales_of(key_scales, kv_head, view.n_tokens());
  view.value_scales = scales_of(value_scales, kv_head, view.n_tokens());
  return view;
}

int64_t ScaledRows::row_bytes() const {
  const auto n = rows.size(1) * static_cast<int64_t>(size_of(rows.dtype()));
  return scales.empty() ? n : n + static_cast<int64_t>(sizeof(float));
}

void ScaledRows::widen(int64_t begin, int64_t end, float* out) const {
  const int64_t dim = rows.size(1);
  if (scales.empty()) {
    kernels().to_f32(rows.at(begin * dim), rows.dtype(), (end - begin) * dim, out);
  } else {
    kernels().widen_i8(static_cast<const int8_t*>(rows.at(begin * dim)), scales.data() + begin, end - begin, dim, out);
  }
}

void ScaledRows::scores(TensorView queries, int64_t begin, int64_t end, float scale, float* out,
                        int64_t out_stride) const {
  const int64_t dim = rows.size(1);
  const auto score = [&](const void* tile, DType dtype, int64_t n) {
    kernels().scores({.queries = queries.f32(),
                      .n_queries = queries.size(0),
                      .rows = tile,
                      .dtype = dtype,
                      .n_rows = n,
                      .dim = dim,
                      .scale = scale,
                      .out = out,
                      .out_stride = out_stride});
    out += n;
  };
  if (scales.empty()) return score(rows.at(begin * dim), rows.dtype(), end - begin);
  if (dim > kMaxHeadDim) fail("rows of 8 bits have at most {} dimensions, found {}", kMaxHeadDim, dim);
  float tile[kTileRows * kMaxHeadDim];
  for (; begin < end; begin += kTileRows) {
    const int64_t n = std::min(kTileRows, end - begin);
    widen(begin, begin + n, tile);
    score(tile, DType::f32, n);
  }
}

double RoundingError::root_mean_square() const {
  return n_rows == 0 ? 0 : std::sqrt(squares / static_cast<double>(n_rows));
}

void RoundingError::add(const RoundingError& other) {
  squares += other.squares;
  n_rows += other.n_rows;
}

QuantisedRows quantise(TensorView rows) {
  const int64_t dim = rows.size(1);
  QuantisedRows out{Tensor(DType::i8, rows.shape()), {}};
  for (int64_t i = 0; i < rows.size(0); ++i) {
    const float* row = rows.f32() + i * dim;
    float largest = 0;
    for (int64_t c = 0; c < dim; ++c) largest = std::max(largest, std::abs(row[c]));
    const float scale = largest / 127.0f;
    for (int64_t c = 0; c < dim; ++c) {  // a quotient: 1 / scale overflows where the row is subnormal
      const float steps = scale > 0 ? row[c] / scale : 0.0f;
      store_element(out.rows.data(), DType::i8, i * dim + c, std::clamp(steps, -127.0f, 127.0f));
    }
    out.scales.push_back(scale);
  }
  return out;
}

int64_t ClusterCount::of(int64_t n_tokens) const {
  if (count > 0) return count;
  return std::max<int64_t>(1, std::llround(share * static_cast<double>(n_tokens)));
}

}  // namespace squeeze
