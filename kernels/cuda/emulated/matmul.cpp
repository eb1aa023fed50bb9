// Matrix products of the emulation: plain loops in the place of cuBLASLt. A sum is kSums partial ones, added in order.
#include "kernels/cuda/matmul.hpp"

#include <vector>

#include "kernels/cuda/emulated/simt.hpp"
#include "kernels/cuda/matvec.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda {
namespace {

constexpr int64_t kSums = 8;
constexpr int64_t kRows = 4;  // of x, that share what is read of the weights

// Rows of n elements, zeros up to `stride`.
std::vector<float> widened(const uint16_t* rows, int64_t n_rows, int64_t n, int64_t stride) {
  std::vector<float> out(static_cast<size_t>(n_rows * stride));
  for (int64_t r = 0; r < n_rows; ++r) {
    for (int64_t c = 0; c < n; ++c) out[static_cast<size_t>(r * stride + c)] = bf16_to_f32(rows[r * n + c]);
  }
  return out;
}

void dots(const float* x, const float* weights, int64_t stride, float (&out)[kRows]) {
  float sums[kRows][kSums] = {};
  for (int64_t first = 0; first < stride; first += kSums) {
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t i = 0; i < kSums; ++i) sums[row][i] += x[row * stride + first + i] * weights[first + i];
    }
  }
  for (int64_t row = 0; row < kRows; ++row) {
    out[row] = 0;
    for (const float sum : sums[row]) out[row] += sum;
  }
}

void multiply(const LinearArgs& a) {
  const int64_t stride = (a.in_features + kSums - 1) / kSums * kSums;
  for (int64_t first = 0; first < a.n_rows; first += kRows * 16) {
    const int64_t n = a.n_rows - first < kRows * 16 ? a.n_rows - first : kRows * 16;
    std::vector<float> x = widened(a.x + first * a.in_features, n, a.in_features, stride);
    x.resize(static_cast<size_t>(kRows * 16 * stride));
    for (int64_t o = 0; o < a.out_features; ++o) {
      const std::vector<float> weights = widened(a.weights + o * a.in_features, 1, a.in_features, stride);
      for (int64_t row = 0; row < n; row += kRows) {
        float sums[kRows];
        dots(x.data() + row * stride, weights.data(), stride, sums);
        for (int64_t i = 0; i < kRows && row + i < n; ++i) {
          a.out[(first + row + i) * a.out_features + o] = a.bias ? sums[i] + a.bias[o] : sums[i];
        }
      }
    }
  }
}

}  // namespace

struct Matmul::State {};
Matmul::Matmul() = default;
Matmul::~Matmul() = default;

void Matmul::operator()(const LinearArgs& a, Stream stream) const {
  if (a.n_rows <= kMatvecRows) return matvec(a, stream);
  emulated::run_or_record([=] { multiply(a); });
}

}  // namespace squeeze::cuda
