// Layers with sketches, and sketches decoded by the definition, for the tests of sketches, lookup and calibration.
#pragma once

#include <vector>

#include "lib/index/sketch.hpp"
#include "tests/made_layer.hpp"

namespace squeeze {

struct SketchedOptions {
  std::vector<ClusterCount> levels;
  int bits = 1;
  bool quantise = false;  // centroids as i8
  int32_t n_sinks = 2, n_window = 10;
};

inline IndexOptions options_of(const SketchedOptions& o) {
  IndexOptions options = options_with(o.levels, o.n_sinks, o.n_window);
  options.sketch_bits = o.bits;
  options.quantise_centroids = o.quantise;
  return options;
}

// The code of a key, +-1 or +-0.5 and +-1.5 per dimension.
inline std::vector<double> code_of(const SketchView& sketches, int64_t key, int64_t dim) {
  const int64_t plane = (dim + 7) / 8;
  const uint8_t* row = sketches.codes + key * sketches.bits * plane;
  const auto sign = [&](int64_t c, int64_t p) { return row[p * plane + c / 8] >> (c % 8) & 1 ? 1.0 : -1.0; };
  std::vector<double> code;
  for (int64_t c = 0; c < dim; ++c) code.push_back(sign(c, 0) + (sketches.bits == 2 ? 0.5 * sign(c, 1) : 0.0));
  return code;
}

// The step of a query's tables: 1/31 of the largest sum of magnitudes over four dimensions of R q.
inline double table_step(const std::vector<double>& turned) {
  double largest = 0;
  for (size_t c = 0; c < turned.size(); c += 4) {
    double sum = 0;
    for (size_t i = c; i < std::min(c + 4, turned.size()); ++i) sum += std::abs(turned[i]);
    largest = std::max(largest, sum);
  }
  return largest / 31;
}

inline double sketch_scale(const SketchView& sketches, int64_t key) { return double{f16_to_f32(sketches.scales[key])}; }

// R x.
inline std::vector<double> rotated(TensorView rotation, const std::vector<double>& x) {
  std::vector<double> out(x.size(), 0.0);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t c = 0; c < x.size(); ++c) out[i] += double{rotation.f32()[i * x.size() + c]} * x[c];
  }
  return out;
}

inline double dot_of(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

inline std::vector<double> row_of(TensorView rows, int64_t row) {
  std::vector<double> out;
  const int64_t dim = rows.size(1);
  for (int64_t c = 0; c < dim; ++c) out.push_back(double{load_element(rows.data(), rows.dtype(), row * dim + c)});
  return out;
}

// A centroid (or a value mean), its scale applied.
inline std::vector<double> row_of(const ScaledRows& rows, int64_t row) {
  std::vector<float> wide(static_cast<size_t>(rows.rows.size(1)));
  rows.widen(row, row + 1, wide.data());
  return {wide.begin(), wide.end()};
}

// The leaf of every clustered key.
inline std::vector<int64_t> leaf_of_key(const HeadView& head) {
  std::vector<int64_t> leaf_of;
  const LevelView& leaves = head.levels.back();
  for (int64_t leaf = 0; leaf < leaves.n_clusters(); ++leaf) {
    leaf_of.insert(leaf_of.end(), static_cast<size_t>(leaves.n_rows(leaf)), leaf);
  }
  return leaf_of;
}

}  // namespace squeeze
