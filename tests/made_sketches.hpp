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
  options.sketch_group = o.bits > 0 ? 4 / o.bits : 0;
  options.quantise_centroids = o.quantise;
  return options;
}

// What a key's code stands for, per dimension of the head; of older files' sketches, of R x.
inline std::vector<double> code_of(const SketchView& sketches, int64_t key, int64_t dim) {
  std::vector<double> code(static_cast<size_t>(dim), 0.0);
  const int64_t n = sketches.group_dim;
  for (int64_t group = 0; group < sketches.n_groups(); ++group) {
    const int entry = sketches.codes[key * sketches.code_bytes() + group / 2] >> (group % 2 * 4) & 15;
    for (int64_t i = 0; i < n; ++i) {
      const int32_t c = sketches.dims[static_cast<size_t>(group * n + i)];
      if (c < 0) continue;
      code[static_cast<size_t>(c)] += double{sketches.steps[static_cast<size_t>(group * n + i)]} *
                                      sketches.entries[static_cast<size_t>((group * 16 + entry) * n + i)];
    }
  }
  return code;
}

// The step of a query's tables: 1/31 of its largest product with an entry.
inline double table_step(const SketchView& sketches, const std::vector<double>& query) {
  double largest = 0;
  const int64_t n = sketches.group_dim;
  for (int64_t entry = 0; entry < sketches.n_groups() * 16; ++entry) {
    double product = 0;
    for (int64_t i = 0; i < n; ++i) {
      const auto place = static_cast<size_t>(entry / 16 * n + i);
      if (sketches.dims[place] < 0) continue;
      product += query[static_cast<size_t>(sketches.dims[place])] * double{sketches.steps[place]} *
                 sketches.entries[static_cast<size_t>(entry * n + i)];
    }
    largest = std::max(largest, std::abs(product));
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
