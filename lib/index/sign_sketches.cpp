// A plane of bits as groups of four dimensions.
#include "lib/index/sign_sketches.hpp"

#include <cmath>
#include <random>

#include "lib/index/sketch.hpp"

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

// A plane has whole bytes of eight dimensions; a set bit stands for +1, `step` wide.
void add_plane(int64_t head_dim, float step, SketchCodebooks& out) {
  for (int64_t first = 0; first < (head_dim + 7) / 8 * 8; first += out.group_dim) {
    for (int64_t c = first; c < first + out.group_dim; ++c) {
      out.dims.push_back(c < head_dim ? static_cast<int32_t>(c) : -1);
      out.steps.push_back(step);
    }
    for (int entry = 0; entry < kSketchEntries; ++entry) {
      for (int i = 0; i < out.group_dim; ++i) out.entries.push_back(entry >> i & 1 ? 1 : -1);
    }
  }
}

// The scale of such a sketch makes the estimate unbiased rather than near: its noise adds to the exponentials of the
// estimates and is taken back, three quarters of it, because a key that was not kept is one whose noise was not large
// (fitted on documents). Per dimension the variance of the noise is, for a Gaussian residual, 1 - 2/pi for one bit and
// 0.1175 of 0.884 for two.
float taken_back(int bits) { return -0.75f * (bits == 1 ? 1 - 0.6366f : 0.104f); }

}  // namespace

SignSketches sign_sketches(int bits, int64_t head_dim) {
  SignSketches out{random_rotation(head_dim, kRotationSeed), {}};
  out.codebooks.group_dim = 4;
  add_plane(head_dim, 1.0f, out.codebooks);
  if (bits == 2) add_plane(head_dim, 0.5f, out.codebooks);
  out.codebooks.error = taken_back(bits);
  return out;
}

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

}  // namespace squeeze
