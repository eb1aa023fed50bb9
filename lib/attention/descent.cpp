// Scores by the kernels, in blocks of query rows, with the running maximum subtracted.
#include "lib/attention/descent.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kRowsPerBlock = 32;  // query rows whose logits are held at once among the leaves

// Throws if an entry is NaN or infinite.
void check_finite(const float* x, int64_t n, const char* what) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, bits_of_float(x[i]) & 0x7fffffffu);
  if (largest >= 0x7f800000u) fail("{} of a block are not finite (NaN or infinity)", what);
}

// In 16 lanes, so that the compiler can use vectors without reordering a float reduction.
float largest_of(const float* x, int64_t n) {
  std::array<float, 16> lanes;
  lanes.fill(-kInfinity);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (size_t lane = 0; lane < 16; ++lane) {
      const float value = x[i + static_cast<int64_t>(lane)];
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  }
  for (; i < n; ++i) lanes[0] = std::max(lanes[0], x[i]);
  return *std::max_element(lanes.begin(), lanes.end());
}

}  // namespace

Descent::Descent(const HeadView& head, TensorView queries, float softmax_scale)
    : head_(head),
      queries_(queries),
      scale_(softmax_scale),
      n_rows_(queries.shape().rank() == 2 ? queries.size(0) : 0) {
  check_block();
  row_max_.resize(static_cast<size_t>(n_rows_));
  dropped_max_.assign(static_cast<size_t>(n_rows_), -kInfinity);
  dropped_sum_.assign(static_cast<size_t>(n_rows_), 0.0f);
  in_play_.add(0, static_cast<int32_t>(level().n_clusters()));
}

void Descent::check_block() const {
  if (head_.levels.empty()) fail("a lookup needs an index with at least one level, found none");
  const TensorView& centroids = head_.levels.front().centroids;
  if (queries_.dtype() != DType::f32 || queries_.shape().rank() != 2 || queries_.size(0) < 1 ||
      queries_.size(1) != centroids.size(1)) {
    fail("a lookup needs f32 queries [rows, {}], found {} {}", centroids.size(1), name_of(queries_.dtype()),
         queries_.shape().str());
  }
  if (!std::isfinite(scale_)) fail("the softmax scale must be finite, found {}", scale_);
  check_finite(queries_.f32(), queries_.n_elements(), "queries");
}

const std::vector<float>& Descent::score() {
  const int64_t n = in_play_.size();
  n_scored_ += n;
  sizes_.clear();
  in_play_.for_each([&](int64_t, int32_t cluster) { sizes_.push_back(static_cast<float>(level().n_rows(cluster))); });
  scores_.assign(static_cast<size_t>(n), 0.0f);
  // An upper level may have to move the mass of what it drops to the next level: all its rows are kept.
  const int64_t block = at_leaves() ? std::min(n_rows_, kRowsPerBlock) : n_rows_;
  weights_.resize(static_cast<size_t>(block * n));
  for (int64_t row = 0; row < n_rows_; row += block) score_rows(row, std::min(n_rows_, row + block));
  return scores_;
}

// Turns rows [begin, end) into weights exp(logit - max) and adds their scores, divided by the number of rows.
void Descent::score_rows(int64_t begin, int64_t end) {
  const int64_t n = in_play_.size();
  compute_logits(begin, end);
  for (int64_t row = begin; row < end; ++row) {
    const auto r = static_cast<size_t>(row);
    float* x = weights_.data() + (row - begin) * n;
    check_finite(x, n, "scores");
    const float max = std::max(largest_of(x, n), dropped_max_[r]);
    const float kept = kernels().exp_sum(x, n, max, sizes_.data());
    const float dropped = dropped_sum_[r] > 0 ? dropped_sum_[r] * std::exp(dropped_max_[r] - max) : 0.0f;
    const float inverse = 1.0f / ((kept + dropped) * static_cast<float>(n_rows_));
    for (int64_t i = 0; i < n; ++i) scores_[static_cast<size_t>(i)] += x[i] * inverse;
    row_max_[r] = max;
  }
}

void Descent::compute_logits(int64_t begin, int64_t end) {
  const int64_t dim = queries_.size(1);
  float* out = weights_.data();
  for (const RowRange& run : in_play_.runs()) {
    kernels().scores({.queries = queries_.f32() + begin * dim,
                      .n_queries = end - begin,
                      .rows = level().centroids.at(run.begin * dim),
                      .dtype = level().centroids.dtype(),
                      .n_rows = run.end - run.begin,
                      .dim = dim,
                      .scale = scale_,
                      .out = out,
                      .out_stride = in_play_.size()});
    out += run.end - run.begin;
  }
}

void Descent::drop_up_to(float threshold) {
  const int64_t n = in_play_.size();
  for (int64_t row = 0; row < n_rows_; ++row) {
    const auto r = static_cast<size_t>(row);
    const float* weights = weights_.data() + row * n;
    double mass = 0;
    for (size_t i = 0; i < scores_.size(); ++i) {
      if (scores_[i] <= threshold) mass += double{sizes_[i]} * double{weights[i]};
    }
    if (mass == 0) continue;
    const double before = double{dropped_sum_[r]} * std::exp(double{dropped_max_[r]} - double{row_max_[r]});
    dropped_sum_[r] = static_cast<float>(before + mass);
    dropped_max_[r] = row_max_[r];
  }
}

void Descent::descend() {
  ClusterRuns children;
  in_play_.for_each(
      [&](int64_t, int32_t cluster) { children.add(level().first_child[cluster], level().first_child[cluster + 1]); });
  in_play_ = std::move(children);
  ++level_;
}

void Descent::descend_above(float threshold) {
  drop_up_to(threshold);
  ClusterRuns kept;
  in_play_.for_each([&](int64_t i, int32_t cluster) {
    if (scores_[static_cast<size_t>(i)] > threshold) kept.add(cluster, cluster + 1);
  });
  in_play_ = std::move(kept);
  descend();
}

}  // namespace squeeze
