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

void matvec_rows(TensorView x, TensorView weights, const float* bias, Tensor& out) {
  const int64_t n = x.size(0), in = weights.size(1), out_features = weights.size(0);
  parallel_blocks(out_features, matvec_block(in), [&](int64_t begin, int64_t end) {
    kernels().matvec({.x = x.f32(),
                      .n_rows = n,
                      .weights = weights.at(begin * in),
                      .dtype = weights.dtype(),
                      .out_features = end - begin,
                      .in_features = in,
                      .bias = bias ? bias + begin : nullptr,
                      .out = out.f32() + begin,
                      .out_stride = out_features});
  });
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

TensorView LinearInput::of(TensorView x) {
  if (precision_ == Precision::f32) return x;
  const bool few_rows = x.size(0) <= kMatvecRows;
  narrow_.resize(DType::bf16, x.shape());
  if (few_rows) wide_.resize(DType::f32, x.shape());
  parallel_blocks(x.n_elements(), kElementBlock, [&](int64_t begin, int64_t end) {
    kernels().from_f32(x.f32() + begin, end - begin, DType::bf16, narrow_.at(begin));
    if (few_rows) kernels().to_f32(narrow_.at(begin), DType::bf16, end - begin, wide_.f32() + begin);
  });
  return few_rows ? wide_ : narrow_;
}

void linear(TensorView x, TensorView weights, TensorView bias, Tensor& out) {
  const float* bias_f32 = bias.data() ? bias.f32() : nullptr;
  out.resize(DType::f32, {x.size(0), weights.size(0)});
  if (x.size(0) <= kMatvecRows) return matvec_rows(x, weights, bias_f32, out);
  parallel_blocks(weights.size(0), feature_block(weights.size(0)),
                  [&](int64_t begin, int64_t end) { matmul_block(x, weights, bias_f32, begin, end, out); });
}

}  // namespace squeeze
