// Learning the codebooks of one head's sketches, and what learning and coding share: residuals, and the entries of a
// group with the sixteen side by side.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/index/sketch.hpp"

namespace squeeze {

inline constexpr int kMaxGroupDim = 8;

// As sketch_keys; without the error.
SketchCodebooks learn_codebooks(TensorView keys, const LevelView& leaves, int group_dim);

float inverse_length(const std::vector<float>& x);  // 0 of what is next to nothing

struct NearestEntry {
  int entry = 0;  // the lowest of equals
  float squared_distance = 0;
};
// x: [dim]; entries: [dim, kSketchEntries].
NearestEntry nearest_entry(const float* x, const float* entries, int dim);

// Keys less the centroid of their leaf.
class LeafResiduals {
 public:
  LeafResiduals(TensorView keys, const LevelView& leaves)
      : keys_(keys),
        leaves_(leaves),
        centroid_(static_cast<size_t>(keys.size(1))),
        residual_(static_cast<size_t>(keys.size(1))) {}

  // Calls body(row, residual) for the leaf's keys, rows counted from the first clustered one.
  template <class Body>
  void for_leaf(int64_t leaf, const Body& body) {
    const int64_t first = leaves_.first_row[static_cast<size_t>(leaf)] - leaves_.first_row[0];
    open(leaf);
    for (int64_t row = first; row < first + leaves_.n_rows(leaf); ++row) body(row, of_row(row));
  }

  const std::vector<float>& of(int64_t leaf, int64_t row) {
    open(leaf);
    return of_row(row);
  }

 private:
  void open(int64_t leaf);
  const std::vector<float>& of_row(int64_t row);

  TensorView keys_;
  const LevelView& leaves_;
  std::vector<float> centroid_, residual_;
  int64_t leaf_ = -1;
};

// Codebooks as floats, an entry in each of sixteen lanes.
class EntryGroups {
 public:
  explicit EntryGroups(const SketchCodebooks& codebooks);

  int group_dim() const { return codebooks_.group_dim; }
  int64_t size() const { return std::ssize(codebooks_.dims) / group_dim(); }
  // The head's dimension that place i of a group is; -1: none.
  int32_t dim(int64_t group, int i) const { return codebooks_.dims[static_cast<size_t>(group * group_dim() + i)]; }
  // [group_dim, kSketchEntries]
  const float* entries(int64_t group) const { return entries_.data() + group * group_dim() * kSketchEntries; }

  // Calls body(group, its dimensions of x) for every group.
  template <class Body>
  void for_each(const std::vector<float>& x, const Body& body) const {
    for (int64_t group = 0; group < size(); ++group) {
      float own[kMaxGroupDim] = {};
      for (int i = 0; i < group_dim(); ++i) {
        if (const int32_t c = dim(group, i); c >= 0) own[i] = x[static_cast<size_t>(c)];
      }
      body(group, own);
    }
  }

 private:
  const SketchCodebooks& codebooks_;
  std::vector<float> entries_;
};

}  // namespace squeeze
