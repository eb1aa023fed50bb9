// Rotation by Gram-Schmidt, codes by rounding.
#include "lib/index/sketch.hpp"

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"
#include "lib/core/scratch.hpp"

namespace squeeze {
namespace {

double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

// x without its components along the unit vectors of `basis`, twice: once is not orthogonal to rounding.
void remove_components(std::vector<double>& x, const std::vector<std::vector<double>>& basis) {
  for (int pass = 0; pass < 2; ++pass) {
    for (const std::vector<double>& unit : basis) {
      const double along = dot(x, unit);
      for (size_t i = 0; i < x.size(); ++i) x[i] -= along * unit[i];
    }
  }
}

// A code and its scale.
struct Code {
  std::vector<float> levels;  // [head_dim]
  double product = 0;         // x·levels
  double squares = 0;         // |levels|^2
};

// Rounds x / step to +-0.5, +-1.5, or to +-1 where there is one bit.
Code round_to_levels(const std::vector<float>& x, int bits, double step) {
  Code code;
  for (const float value : x) {
    const double magnitude = bits == 1 ? 1.0 : std::abs(double{value}) < step ? 0.5 : 1.5;
    const double level = value < 0 ? -magnitude : magnitude;
    code.levels.push_back(static_cast<float>(level));
    code.product += double{value} * level;
    code.squares += level * level;
  }
  return code;
}

// Two bits: the step, in standard deviations, whose code points most nearly along x.
Code best_code(const std::vector<float>& x, int bits, double norm) {
  if (bits == 1) return round_to_levels(x, 1, 0);
  constexpr double kSteps[] = {0.75, 0.85, 0.95, 1.05, 1.15, 1.3};
  const double deviation = norm / std::sqrt(static_cast<double>(x.size()));
  Code best;
  for (const double step : kSteps) {
    Code code = round_to_levels(x, 2, step * deviation);
    if (best.levels.empty() || code.product / std::sqrt(code.squares) > best.product / std::sqrt(best.squares)) {
      best = std::move(code);
    }
  }
  return best;
}

void pack(const Code& code, int bits, uint8_t* out) {
  const size_t plane = (code.levels.size() + 7) / 8;
  for (size_t c = 0; c < code.levels.size(); ++c) {
    const float level = code.levels[c];
    const auto bit = static_cast<uint8_t>(1u << (c % 8));
    if (level > 0) out[c / 8] |= bit;
    const float rest = level > 0 ? level - 1 : level + 1;  // the second plane's half
    if (bits == 2 && rest > 0) out[plane + c / 8] |= bit;
  }
}

std::vector<float> transposed(TensorView square) {
  const int64_t dim = square.size(0);
  std::vector<float> out;
  for (int64_t i = 0; i < dim * dim; ++i) out.push_back(square.f32()[i % dim * dim + i / dim]);
  return out;
}

// out = R x, from R's columns. Not by the kernels, whose rounding differs between machines: a sketch can be checked bit
// by bit.
void rotate(const std::vector<float>& x, const std::vector<float>& columns, std::vector<float>& out) {
  std::fill(out.begin(), out.end(), 0.0f);
  const float* column = columns.data();
  for (const float value : x) {
    for (float& sum : out) sum += value * *column++;
  }
}

}  // namespace

Tensor random_rotation(int64_t head_dim, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<double>> basis;
  const auto dim = static_cast<size_t>(head_dim);
  while (basis.size() < dim) {
    std::vector<double> x(dim);
    for (double& value : x) value = random() >> 63 ? 1.0 : -1.0;
    remove_components(x, basis);
    const double norm = std::sqrt(dot(x, x));
    if (norm < 0.1) continue;  // nearly in the span already
    for (double& value : x) value /= norm;
    basis.push_back(std::move(x));
  }
  Tensor rotation(DType::f32, {head_dim, head_dim});
  for (size_t i = 0; i < dim; ++i) {
    for (size_t c = 0; c < dim; ++c) rotation.f32()[i * dim + c] = static_cast<float>(basis[i][c]);
  }
  return rotation;
}

Sketches sketch_keys(TensorView keys, const LevelView& leaves, int bits, TensorView rotation) {
  const int64_t dim = keys.size(1);
  const int64_t code_bytes = sketch_code_bytes(bits, dim);
  Sketches out{std::vector<uint8_t>(static_cast<size_t>(keys.size(0) * code_bytes), 0), {}};
  out.scales.reserve(static_cast<size_t>(keys.size(0)));
  const std::vector<float> columns = transposed(rotation);
  std::vector<float> centroid(static_cast<size_t>(dim)), residual(centroid.size()), rotated(centroid.size());
  int64_t row = 0;
  for (int64_t leaf = 0; leaf < leaves.n_clusters(); ++leaf) {
    leaves.centroid_rows().widen(leaf, leaf + 1, centroid.data());
    for (int32_t i = 0; i < leaves.n_rows(leaf); ++i, ++row) {
      kernels().to_f32(keys.at(row * dim), keys.dtype(), dim, residual.data());
      double squares = 0;
      for (size_t c = 0; c < residual.size(); ++c) {
        residual[c] -= centroid[c];
        squares += double{residual[c]} * double{residual[c]};
      }
      rotate(residual, columns, rotated);
      const Code code = best_code(rotated, bits, std::sqrt(squares));
      const double scale = code.product > 0 ? squares / code.product : 0.0;
      out.scales.push_back(f32_to_f16(static_cast<float>(std::min(scale, 65504.0))));
      pack(code, bits, out.codes.data() + row * code_bytes);
    }
  }
  return out;
}

namespace {

// sums[b] = what four dimensions of a query add for the signs b.
void sign_sums(const float* q, float (&sums)[16]) {
  for (int b = 0; b < 16; ++b) {
    sums[b] = (b & 1 ? q[0] : -q[0]) + (b & 2 ? q[1] : -q[1]) + (b & 4 ? q[2] : -q[2]) + (b & 8 ? q[3] : -q[3]);
  }
}

// Writes one query's tables; returns the step of their entries.
float fill_tables(const float* rotated, int64_t n_groups, uint8_t* out) {
  float largest = 0;
  for (int64_t g = 0; g < n_groups; ++g) {
    const float* q = rotated + 4 * g;
    largest = std::max(largest, std::abs(q[0]) + std::abs(q[1]) + std::abs(q[2]) + std::abs(q[3]));
  }
  const float inverse = largest > 0 ? kSketchTableZero / largest : 0.0f;
  for (int64_t g = 0; g < n_groups; ++g) {
    float sums[16];
    sign_sums(rotated + 4 * g, sums);
    for (const float sum : sums) {
      *out++ = static_cast<uint8_t>(std::clamp(sum * inverse + kSketchTableZero + 0.5f, 0.0f, 62.5f));
    }
  }
  return largest / kSketchTableZero;
}

}  // namespace

SketchTables sketch_tables(TensorView queries, const SketchView& sketches, float softmax_scale, SketchTables reused) {
  const int64_t n = queries.size(0), dim = queries.size(1), table_bytes = sketch_table_bytes(dim);
  const int64_t stride = table_bytes / 4;
  SketchTables out = std::move(reused);
  Tensor& rotated = out.rotated;
  rotated.resize(DType::f32, {n, stride});
  std::fill_n(rotated.f32(), rotated.n_elements(), 0.0f);
  kernels().matvec({.x = queries.f32(),
                    .n_rows = n,
                    .weights = sketches.rotation.data(),
                    .dtype = DType::f32,
                    .out_features = dim,
                    .in_features = dim,
                    .bias = nullptr,
                    .out = rotated.f32(),
                    .out_stride = stride});
  if (!all_finite({rotated.f32(), static_cast<size_t>(rotated.n_elements())})) {
    fail("scores of a block are not finite (NaN or infinity)");
  }
  resize_with_room(out.entries, static_cast<size_t>(n * table_bytes));
  out.scales.clear();
  const float level = sketches.bits == 2 ? 0.5f * softmax_scale : softmax_scale;
  for (int64_t i = 0; i < n; ++i) {
    out.scales.push_back(level *
                         fill_tables(rotated.f32() + i * stride, stride / 4, out.entries.data() + i * table_bytes));
  }
  return out;
}

}  // namespace squeeze
