// Linear layers by matvec (few rows) or by blocked matmul (many rows).
#include "lib/model/linear.hpp"

#include <algorithm>

#include "kernels/kernels.hpp"
#include "kernels/matmul.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kMatvecRows = 8;         // up to here streaming the weights costs more than the arithmetic
constexpr int64_t kTaskWeights = 1 << 16;  // weights per task at least: a few microseconds, more than a task costs
constexpr int64_t kRowBlock = 512;
constexpr int64_t kElementBlock = 1 << 16;

int64_t matvec_block(int64_t in_features) {
  return std::max<int64_t>(32, kTaskWeights / std::max<int64_t>(in_features, 1));
}

// Wide blocks amortise oneDNN's packing of x; narrow ones keep every core busy on small layers.
int64_t feature_block(int64_t out_features) { return out_features >= 2048 ? 256 : 64; }

Tensor matvec_rows(TensorView x, TensorView weights, const float* bias) {
  const Tensor wide = x.dtype() == DType::f32 ? Tensor() : convert(x, DType::f32);
  const int64_t n = x.size(0), in = weights.size(1), out_features = weights.size(0);
  Tensor out(DType::f32, {n, out_features});
  parallel_blocks(out_features, matvec_block(in), [&](int64_t begin, int64_t end) {
    kernels().matvec({.x = x.dtype() == DType::f32 ? x.f32() : wide.f32(),
                      .n_rows = n,
                      .weights = weights.at(begin * in),
                      .dtype = weights.dtype(),
                      .out_features = end - begin,
                      .in_features = in,
                      .bias = bias ? bias + begin : nullptr,
                      .out = out.f32() + begin,
                      .out_stride = out_features});
  });
  return out;
}

// Columns [begin, end) of out, all rows.
void matmul_block(TensorView x, TensorView weights, const float* bias, int64_t begin, int64_t end, Tensor& out) {
  const int64_t n = x.size(0), in = weights.size(1), stride = weights.size(0);
  const TensorView mapped = weights.slice(begin, end);
  const Tensor converted = mapped.dtype() == x.dtype() ? Tensor() : convert(mapped, x.dtype());
  for (int64_t row = 0; row < n; row += kRowBlock) {
    matmul({.x = x.at(row * in),
            .weights = mapped.dtype() == x.dtype() ? mapped.data() : converted.data(),
            .dtype = x.dtype(),
            .n_rows = std::min(kRowBlock, n - row),
            .out_features = end - begin,
            .in_features = in,
            .out = out.f32() + row * stride + begin,
            .out_stride = stride});
  }
  for (int64_t row = 0; bias && row < n; ++row) {
    float* y = out.f32() + row * stride;
    for (int64_t j = begin; j < end; ++j) y[j] += bias[j];
  }
}

}  // namespace

Tensor linear_input(Tensor x, Precision precision) {
  if (precision == Precision::f32) return x;
  Tensor narrow(DType::bf16, x.shape());
  parallel_blocks(x.n_elements(), kElementBlock, [&](int64_t begin, int64_t end) {
    kernels().from_f32(x.f32() + begin, end - begin, DType::bf16, narrow.at(begin));
  });
  return narrow;
}

Tensor linear(TensorView x, TensorView weights, TensorView bias) {
  const float* bias_f32 = bias.data() ? bias.f32() : nullptr;
  if (x.size(0) <= kMatvecRows) return matvec_rows(x, weights, bias_f32);
  Tensor out(DType::f32, {x.size(0), weights.size(0)});
  parallel_blocks(weights.size(0), feature_block(weights.size(0)),
                  [&](int64_t begin, int64_t end) { matmul_block(x, weights, bias_f32, begin, end, out); });
  return out;
}

}  // namespace squeeze
