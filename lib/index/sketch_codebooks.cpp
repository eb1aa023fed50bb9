// Groups by variance, entries by k-means on a sample of the head's residuals.
#include "lib/index/sketch_codebooks.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/kernels.hpp"
#include "lib/core/parallel.hpp"

namespace squeeze {
namespace {

constexpr int64_t kMostSamples = 8192;
constexpr int kIterations = 15;
constexpr double kLeastSquares = 1e-60;  // the inverse of a shorter length may be no float

// Residuals of length 1 of keys that lie evenly over the rows, hence over the leaves.
std::vector<std::vector<float>> sample_residuals(TensorView keys, const LevelView& leaves) {
  const int64_t n_keys = keys.size(0), n = std::min(n_keys, kMostSamples);
  std::vector<std::vector<float>> samples;
  LeafResiduals residuals(keys, leaves);
  int64_t leaf = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = i * n_keys / n;
    while (leaves.first_row[static_cast<size_t>(leaf) + 1] - leaves.first_row[0] <= row) ++leaf;
    std::vector<float> x = residuals.of(leaf, row);
    const float inverse = inverse_length(x);
    if (inverse == 0) continue;
    for (float& value : x) value *= inverse;
    samples.push_back(std::move(x));
  }
  return samples;
}

std::vector<double> variances(const std::vector<std::vector<float>>& samples, size_t head_dim) {
  std::vector<double> sums(head_dim, 0.0);
  for (const std::vector<float>& x : samples) {
    for (size_t c = 0; c < head_dim; ++c) sums[c] += double{x[c]} * double{x[c]};
  }
  return sums;
}

// The largest variance first, each to the group whose variances have the smallest product so far.
std::vector<int32_t> balanced_groups(const std::vector<double>& variances, int group_dim) {
  const auto head_dim = std::ssize(variances);
  const auto n_groups = static_cast<size_t>(sketch_groups(group_dim, head_dim));
  std::vector<int32_t> by_variance(variances.size());
  std::iota(by_variance.begin(), by_variance.end(), 0);
  std::stable_sort(by_variance.begin(), by_variance.end(), [&](int32_t a, int32_t b) {
    return variances[static_cast<size_t>(a)] > variances[static_cast<size_t>(b)];
  });
  const double largest = variances[static_cast<size_t>(by_variance.front())];
  const double least = std::max(variances[static_cast<size_t>(by_variance.back())], largest * 1e-9);
  std::vector<int32_t> dims(n_groups * static_cast<size_t>(group_dim), -1);
  std::vector<double> log_product(n_groups, 0.0);
  std::vector<size_t> n_in(n_groups, 0);
  for (const int32_t c : by_variance) {
    size_t best = n_groups;
    for (size_t g = 0; g < n_groups; ++g) {
      if (n_in[g] == static_cast<size_t>(group_dim)) continue;
      if (best == n_groups || log_product[g] < log_product[best]) best = g;
    }
    dims[best * static_cast<size_t>(group_dim) + n_in[best]++] = c;
    if (largest > 0) log_product[best] += std::log(std::max(variances[static_cast<size_t>(c)], least) / least);
  }
  return dims;
}

// K-means of one group's samples [n, dim]; entries: [dim, kSketchEntries], changed in place.
class GroupTrainer {
 public:
  GroupTrainer(const std::vector<float>& samples, int dim)
      : samples_(samples), dim_(dim), n_(std::ssize(samples) / dim), distances_(static_cast<size_t>(n_)) {}

  std::vector<float> train() {
    std::vector<float> entries(static_cast<size_t>(dim_ * kSketchEntries), 0.0f);
    if (n_ == 0) return entries;
    for (int b = 0; b < kSketchEntries; ++b) set(entries, b, b * n_ / kSketchEntries);
    for (int i = 0; i < kIterations; ++i) step(entries);
    return entries;
  }

 private:
  const float* sample(int64_t i) const { return samples_.data() + i * dim_; }
  void set(std::vector<float>& entries, int b, int64_t of_sample) const {
    for (int c = 0; c < dim_; ++c) entries[static_cast<size_t>(c * kSketchEntries + b)] = sample(of_sample)[c];
  }

  // Entries become the means of what is nearest to them; one without samples moves to the sample farthest from its own.
  void step(std::vector<float>& entries) {
    double sums[kMaxGroupDim][kSketchEntries] = {};
    int64_t counts[kSketchEntries] = {};
    for (int64_t i = 0; i < n_; ++i) {
      const NearestEntry nearest = nearest_entry(sample(i), entries.data(), dim_);
      distances_[static_cast<size_t>(i)] = nearest.squared_distance;
      ++counts[nearest.entry];
      for (int c = 0; c < dim_; ++c) sums[c][nearest.entry] += double{sample(i)[c]};
    }
    for (int b = 0; b < kSketchEntries; ++b) {
      if (counts[b] == 0) {
        const auto farthest = std::max_element(distances_.begin(), distances_.end());
        set(entries, b, farthest - distances_.begin());
        *farthest = 0;
        continue;
      }
      for (int c = 0; c < dim_; ++c) {
        entries[static_cast<size_t>(c * kSketchEntries + b)] =
            static_cast<float>(sums[c][b] / static_cast<double>(counts[b]));
      }
    }
  }

  const std::vector<float>& samples_;
  int dim_;
  int64_t n_;
  std::vector<float> distances_;
};

// Entries [dim, kSketchEntries] as integers with a step per dimension.
void round_entries(const std::vector<float>& entries, int64_t group, SketchCodebooks& out) {
  const int dim = out.group_dim;
  for (int c = 0; c < dim; ++c) {
    const float* own = entries.data() + c * kSketchEntries;
    float largest = 0;
    for (int b = 0; b < kSketchEntries; ++b) largest = std::max(largest, std::abs(own[b]));
    const float step = largest / 127;
    out.steps[static_cast<size_t>(group * dim + c)] = step;
    for (int b = 0; b < kSketchEntries; ++b) {
      out.entries[static_cast<size_t>((group * kSketchEntries + b) * dim + c)] =
          static_cast<int8_t>(step > 0 ? std::lrint(own[b] / step) : 0);
    }
  }
}

}  // namespace

float inverse_length(const std::vector<float>& x) {
  double squares = 0;
  for (const float value : x) squares += double{value} * double{value};
  return squares > kLeastSquares ? static_cast<float>(1 / std::sqrt(squares)) : 0.0f;
}

NearestEntry nearest_entry(const float* x, const float* entries, int dim) {
  float distances[kSketchEntries] = {};
  for (int c = 0; c < dim; ++c) {
    for (int b = 0; b < kSketchEntries; ++b) {
      const float off = x[c] - entries[c * kSketchEntries + b];
      distances[b] += off * off;
    }
  }
  NearestEntry nearest{0, distances[0]};
  for (int b = 1; b < kSketchEntries; ++b) {
    if (distances[b] < nearest.squared_distance) nearest = {b, distances[b]};
  }
  return nearest;
}

void LeafResiduals::open(int64_t leaf) {
  if (leaf == leaf_) return;
  leaves_.centroid_rows().widen(leaf, leaf + 1, centroid_.data());
  leaf_ = leaf;
}

const std::vector<float>& LeafResiduals::of_row(int64_t row) {
  const int64_t dim = keys_.size(1);
  kernels().to_f32(keys_.at(row * dim), keys_.dtype(), dim, residual_.data());
  for (size_t c = 0; c < residual_.size(); ++c) residual_[c] -= centroid_[c];
  return residual_;
}

EntryGroups::EntryGroups(const SketchCodebooks& codebooks) : codebooks_(codebooks) {
  const int dim = group_dim();
  for (int64_t group = 0; group < size(); ++group) {
    for (int c = 0; c < dim; ++c) {
      for (int b = 0; b < kSketchEntries; ++b) {
        entries_.push_back(codebooks.steps[static_cast<size_t>(group * dim + c)] *
                           codebooks.entries[static_cast<size_t>((group * kSketchEntries + b) * dim + c)]);
      }
    }
  }
}

SketchCodebooks learn_codebooks(TensorView keys, const LevelView& leaves, int group_dim) {
  const std::vector<std::vector<float>> samples = sample_residuals(keys, leaves);
  SketchCodebooks out;
  out.group_dim = group_dim;
  out.dims = balanced_groups(variances(samples, static_cast<size_t>(keys.size(1))), group_dim);
  out.steps.resize(out.dims.size());
  out.entries.resize(out.dims.size() * kSketchEntries);
  parallel_for(std::ssize(out.dims) / group_dim, [&](int64_t group) {
    std::vector<float> own;
    own.reserve(samples.size() * static_cast<size_t>(group_dim));
    for (const std::vector<float>& x : samples) {
      for (int i = 0; i < group_dim; ++i) {
        const int32_t c = out.dims[static_cast<size_t>(group * group_dim + i)];
        own.push_back(c < 0 ? 0.0f : x[static_cast<size_t>(c)]);
      }
    }
    round_entries(GroupTrainer(own, group_dim).train(), group, out);
  });
  return out;
}

}  // namespace squeeze
