// Made-up keys and values of any type.
#pragma once

#include <algorithm>

#include "tests/cuda/cases.hpp"

namespace squeeze::cuda_tests {

// Rows of numbers; of i8 each with a scale.
struct Rows {
  DType dtype;
  size_t dim;
  std::vector<uint8_t> data;
  std::vector<float> scales;

  Rows() = default;
  // i8: the largest of a row becomes 127; row i is (1 + i % 3) times as large, so that scales matter.
  Rows(Random& random, size_t n, int head_dim, DType type)
      : dtype(type), dim(size_t(head_dim)), data(n * dim * size_of(type)) {
    for (size_t i = 0; i < n; ++i) {
      const std::vector<float> row = random.normals(dim, type == DType::i8 ? float(1 + i % 3) / 2 : 1);
      float largest = 0;
      for (const float x : row) largest = std::max(largest, std::abs(x));
      if (type == DType::i8) scales.push_back(largest / 127);
      for (size_t c = 0; c < dim; ++c) {
        store_element(data.data(), type, int64_t(i * dim + c), type == DType::i8 ? row[c] / scales[i] : row[c]);
      }
    }
  }
  double at(size_t row, size_t column) const {
    const double x{load_element(data.data(), dtype, int64_t(row * dim + column))};
    return scales.empty() ? x : x * double{scales[row]};
  }
};

}  // namespace squeeze::cuda_tests
