// Rounds keys and values a tile of rows at a time, so that their float32 copies stay small.
#include "lib/index/quantise_kv.hpp"

#include <algorithm>

#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kTileRows = 256;

// A row of zeros has no error.
RoundingError rounding_error(const Tensor& rows, const QuantisedRows& rounded) {
  const int64_t dim = rows.size(1);
  RoundingError error{0, rows.size(0)};
  Tensor wide(DType::f32, rows.shape());
  ScaledRows{rounded.rows, rounded.scales}.widen(0, rows.size(0), wide.f32());
  for (int64_t i = 0; i < rows.size(0); ++i) {
    double off = 0, size = 0;
    for (int64_t c = i * dim; c < (i + 1) * dim; ++c) {
      const double x = rows.f32()[c];
      off += (double{wide.f32()[c]} - x) * (double{wide.f32()[c]} - x);
      size += x * x;
    }
    if (size > 0) error.squares += off / size;
  }
  return error;
}

// Rounds one head's rows [n_tokens, head_dim] to `out`.
RoundingError quantise_rows(TensorView rows, void* out, float* scales) {
  RoundingError error;
  auto* target = static_cast<int8_t*>(out);
  for (int64_t begin = 0; begin < rows.size(0); begin += kTileRows) {
    const Tensor tile = convert(rows.slice(begin, std::min(rows.size(0), begin + kTileRows)), DType::f32);
    const QuantisedRows rounded = quantise(tile);
    target = std::copy_n(static_cast<const int8_t*>(rounded.rows.data()), rounded.rows.n_bytes(), target);
    scales = std::copy(rounded.scales.begin(), rounded.scales.end(), scales);
    error.add(rounding_error(tile, rounded));
  }
  return error;
}

// All heads of keys or values, in place; `error` is where each head keeps its own.
void quantise_all(Tensor& rows, std::vector<float>& scales, std::vector<HeadIndex>& heads,
                  RoundingError HeadIndex::*error) {
  const int64_t n_tokens = rows.size(1), head_dim = rows.size(2);
  Tensor rounded(DType::i8, rows.shape());
  scales.resize(static_cast<size_t>(rows.size(0) * n_tokens));
  parallel_for(rows.size(0), [&](int64_t h) {
    heads[static_cast<size_t>(h)].*error =
        quantise_rows(rows[h], rounded.at(h * n_tokens * head_dim), scales.data() + h * n_tokens);
  });
  rows = std::move(rounded);
}

}  // namespace

void quantise_kv(IndexLayer& layer) {
  quantise_all(layer.keys, layer.key_scales, layer.heads, &HeadIndex::key_error);
  quantise_all(layer.values, layer.value_scales, layer.heads, &HeadIndex::value_error);
}

}  // namespace squeeze
