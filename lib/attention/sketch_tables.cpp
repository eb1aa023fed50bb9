// Products with all entries, rounded to what four of which fit a byte.
#include "lib/attention/sketch_tables.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/scratch.hpp"
#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

void check_finite(std::span<const float> x) {
  if (!all_finite(x)) fail("scores of a block are not finite (NaN or infinity)");
}

template <int kGroupDim>
void multiply(const float* query, const SketchView& sketches, float* out) {
  const int8_t* entry = sketches.entries.data();
  for (int64_t group = 0; group < sketches.n_groups(); ++group) {
    float own[kGroupDim];
    for (int i = 0; i < kGroupDim; ++i) {
      const auto place = static_cast<size_t>(group * kGroupDim + i);
      const int32_t c = sketches.dims[place];
      own[i] = c < 0 ? 0.0f : query[c] * sketches.steps[place];
    }
    for (int b = 0; b < kSketchEntries; ++b, entry += kGroupDim) {
      float sum = 0;
      for (int i = 0; i < kGroupDim; ++i) sum += own[i] * entry[i];
      *out++ = sum;
    }
  }
}

void multiply(const float* query, const SketchView& sketches, std::vector<float>& out) {
  resize_with_room(out, static_cast<size_t>(sketches.n_groups() * kSketchEntries));
  if (sketches.group_dim == 2) return multiply<2>(query, sketches, out.data());
  if (sketches.group_dim == 4) return multiply<4>(query, sketches, out.data());
  multiply<8>(query, sketches, out.data());
}

constexpr float kLeastProduct = 1e-30f;  // smaller ones are no different from 0

// Writes one query's tables; returns the step of their entries. An unused half of a byte adds nothing.
float round_products(const std::vector<float>& products, int64_t table_bytes, uint8_t* out) {
  float largest = 0;
  for (const float product : products) largest = std::max(largest, std::abs(product));
  const float inverse = largest > kLeastProduct ? kSketchTableZero / largest : 0.0f;
  std::fill_n(out, table_bytes, static_cast<uint8_t>(kSketchTableZero));
  for (const float product : products) {
    *out++ = static_cast<uint8_t>(std::clamp(product * inverse + kSketchTableZero + 0.5f, 0.0f, 62.5f));
  }
  return largest / kSketchTableZero;
}

// R q.
TensorView rotate(TensorView queries, TensorView rotation, Tensor& out) {
  out.resize(DType::f32, queries.shape());
  kernels().matvec({.x = queries.f32(),
                    .n_rows = queries.size(0),
                    .weights = rotation.data(),
                    .dtype = DType::f32,
                    .out_features = queries.size(1),
                    .in_features = queries.size(1),
                    .bias = nullptr,
                    .out = out.f32(),
                    .out_stride = queries.size(1)});
  return out;
}

}  // namespace

SketchTables sketch_tables(TensorView queries, const SketchView& sketches, float softmax_scale, SketchTables reused) {
  const int64_t n = queries.size(0), dim = queries.size(1), table_bytes = sketch_table_bytes(sketches.code_bytes());
  SketchTables out = std::move(reused);
  const TensorView turned = sketches.rotation.data() ? rotate(queries, sketches.rotation, out.rotated) : queries;
  check_finite({turned.f32(), static_cast<size_t>(turned.n_elements())});
  resize_with_room(out.entries, static_cast<size_t>(n * table_bytes));
  out.scales.clear();
  for (int64_t i = 0; i < n; ++i) {
    multiply(turned.f32() + i * dim, sketches, out.products);
    check_finite(out.products);
    out.scales.push_back(softmax_scale *
                         round_products(out.products, table_bytes, out.entries.data() + i * table_bytes));
  }
  return out;
}

}  // namespace squeeze
