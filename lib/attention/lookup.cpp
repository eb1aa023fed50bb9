// The lookup: level by level, scores of the clusters that are still in play, then the rule that keeps or drops them.
#include "lib/attention/lookup.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kRowsPerBlock = 32;  // logits of so many query rows are held at once below the upper levels

// Runs of consecutive clusters of one level, ascending, disjoint and merged where they touch.
class ClusterRuns {
 public:
  void add(int32_t begin, int32_t end) {
    size_ += end - begin;
    if (!runs_.empty() && runs_.back().end == begin) {
      runs_.back().end = end;
    } else if (begin < end) {
      runs_.push_back({begin, end});
    }
  }
  template <class Body>
  void for_each(const Body& body) const {  // body(position in the runs, cluster)
    int64_t position = 0;
    for (const RowRange& run : runs_) {
      for (int32_t cluster = run.begin; cluster < run.end; ++cluster) body(position++, cluster);
    }
  }
  const std::vector<RowRange>& runs() const { return runs_; }
  int64_t size() const { return size_; }

 private:
  std::vector<RowRange> runs_;
  int64_t size_ = 0;
};

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

// The descent of one block of queries through the levels of one head.
class Descent {
 public:
  Descent(const HeadView& head, TensorView queries, float scale)
      : head_(head),
        queries_(queries),
        scale_(scale),
        n_rows_(queries.size(0)),
        dropped_max_(static_cast<size_t>(n_rows_), -kInfinity),
        dropped_sum_(static_cast<size_t>(n_rows_), 0.0f) {
    in_play_.add(0, static_cast<int32_t>(level().n_clusters()));
  }

  const LevelView& level() const { return head_.levels[level_]; }
  const ClusterRuns& in_play() const { return in_play_; }
  const std::vector<float>& scores() const { return scores_; }  // of the clusters in play, in order
  int64_t n_scored() const { return n_scored_; }
  bool at_leaves() const { return level_ + 1 == head_.levels.size(); }

  // Scores the clusters in play: one mean over the rows per cluster.
  void score() {
    const int64_t n = in_play_.size();
    n_scored_ += n;
    sizes_.clear();
    in_play_.for_each([&](int64_t, int32_t cluster) { sizes_.push_back(static_cast<float>(level().n_rows(cluster))); });
    scores_.assign(static_cast<size_t>(n), 0.0f);
    // An upper level may have to move the mass of what it drops to the next level: all its rows are kept.
    const int64_t block = at_leaves() ? std::min(n_rows_, kRowsPerBlock) : n_rows_;
    weights_.resize(static_cast<size_t>(block * n));
    for (int64_t row = 0; row < n_rows_; row += block) score_rows(row, std::min(n_rows_, row + block));
  }

  // Moves to the next level: the children of the clusters in play, or those of the kept ones after score().
  void descend_to_all() {
    descend([](int64_t) { return true; });
  }
  template <class Keep>
  void descend(const Keep& keep) {
    ClusterRuns children;
    in_play_.for_each([&](int64_t i, int32_t cluster) {
      if (keep(i)) children.add(level().first_child[cluster], level().first_child[cluster + 1]);
    });
    in_play_ = std::move(children);
    ++level_;
  }

  // Adds the mass of the clusters that `keep` refuses to the denominators of the levels below. After score().
  template <class Keep>
  void drop_unless(const Keep& keep) {
    const int64_t n = in_play_.size();
    for (int64_t row = 0; row < n_rows_; ++row) {
      const auto r = static_cast<size_t>(row);
      double mass = 0;
      for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(row * n + i);
        if (!keep(i)) mass += double{sizes_[static_cast<size_t>(i)]} * double{weights_[at]};
      }
      if (mass == 0) continue;
      const double before = double{dropped_sum_[r]} * std::exp(double{dropped_max_[r]} - double{row_max_[r]});
      dropped_sum_[r] = static_cast<float>(before + mass);
      dropped_max_[r] = row_max_[r];
    }
  }

 private:
  // Turns rows [begin, end) into weights exp(logit - max) and adds their scores, divided by the number of rows.
  void score_rows(int64_t begin, int64_t end) {
    const int64_t n = in_play_.size();
    compute_logits(begin, end);
    row_max_.resize(static_cast<size_t>(n_rows_));
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

  void compute_logits(int64_t begin, int64_t end) {
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

  const HeadView& head_;
  TensorView queries_;
  float scale_;
  int64_t n_rows_;
  size_t level_ = 0;
  ClusterRuns in_play_;
  int64_t n_scored_ = 0;
  std::vector<float> sizes_;  // N_i of the clusters in play
  std::vector<float> scores_;
  std::vector<float> weights_;      // exp(logit - row maximum), [rows held, clusters in play]
  std::vector<float> row_max_;      // [n_rows]
  std::vector<float> dropped_max_;  // [n_rows] the mass dropped so far is dropped_sum x exp(dropped_max)
  std::vector<float> dropped_sum_;
};

void check_block(const HeadView& head, TensorView queries, float scale) {
  if (head.levels.empty()) fail("a lookup needs an index with at least one level, found none");
  const TensorView& centroids = head.levels.front().centroids;
  if (queries.dtype() != DType::f32 || queries.shape().rank() != 2 || queries.size(0) < 1 ||
      queries.size(1) != centroids.size(1)) {
    fail("a lookup needs f32 queries [rows, {}], found {} {}", centroids.size(1), name_of(queries.dtype()),
         queries.shape().str());
  }
  if (!std::isfinite(scale)) fail("the softmax scale must be finite, found {}", scale);
  check_finite(queries.f32(), queries.n_elements(), "queries");
}

void check_rule(const HeadView& head, const SelectionRule& rule) {
  const size_t n_levels = head.levels.size();
  const size_t n_thresholds = rule.thresholds.size();
  const bool by_threshold = rule.rule == Rule::threshold;
  if (by_threshold ? n_thresholds != n_levels
                   : (n_thresholds > n_levels || (n_thresholds && n_thresholds + 1 < n_levels))) {
    fail("an index of {} levels needs as many thresholds, found {}", n_levels, n_thresholds);
  }
  for (const float t : rule.thresholds) {
    if (std::isnan(t)) fail("a score threshold must be a number, found NaN");
  }
  if (rule.rule == Rule::top_k && rule.top_k < 0) fail("top-k must not be negative, found {}", rule.top_k);
  if (rule.rule == Rule::top_p && !(rule.top_p >= 0 && rule.top_p <= 1)) {
    fail("top-p must lie in [0, 1], found {}", rule.top_p);
  }
}

// Calls take(i) for the best leaves, score descending, until it returns false.
template <class Take>
void for_best(const std::vector<float>& scores, const Take& take) {
  const auto worse = [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)];
    const float y = scores[static_cast<size_t>(b)];
    return x < y || (x == y && a > b);
  };
  std::vector<int32_t> heap(scores.size());
  for (size_t i = 0; i < heap.size(); ++i) heap[i] = static_cast<int32_t>(i);
  std::make_heap(heap.begin(), heap.end(), worse);
  while (!heap.empty() && take(static_cast<size_t>(heap.front()))) {
    std::pop_heap(heap.begin(), heap.end(), worse);
    heap.pop_back();
  }
}

// Which of the scored leaves the rule keeps; sizes: N_i of the same leaves.
std::vector<char> kept_leaves(const std::vector<float>& scores, const std::vector<int64_t>& sizes,
                              const SelectionRule& rule) {
  std::vector<char> keep(scores.size(), 0);
  if (rule.rule == Rule::threshold) {
    for (size_t i = 0; i < keep.size(); ++i) keep[i] = scores[i] > rule.thresholds.back();
  } else if (rule.rule == Rule::top_k) {
    int64_t n_keys = 0;
    for_best(scores, [&](size_t i) {
      const bool fits = n_keys + sizes[i] <= rule.top_k || (n_keys == 0 && rule.top_k > 0);
      if (fits) keep[i] = 1;
      n_keys += sizes[i];
      return fits;
    });
  } else {
    double mass = 0;
    for_best(scores, [&](size_t i) {
      if (mass >= rule.top_p) return false;
      keep[i] = 1;
      mass += static_cast<double>(sizes[i]) * double{scores[i]};
      return true;
    });
  }
  return keep;
}

bool keeps_every_leaf(const SelectionRule& rule) {
  return rule.rule == Rule::all || (rule.rule == Rule::threshold && rule.thresholds.back() == -kInfinity) ||
         (rule.rule == Rule::top_p && rule.top_p >= 1);
}

void select_leaves(Descent& descent, int32_t level, const SelectionRule& rule, Selection& selection) {
  const LevelView& leaves = descent.level();
  std::vector<char> keep(static_cast<size_t>(descent.in_play().size()), 1);
  if (!keeps_every_leaf(rule)) {
    descent.score();
    std::vector<int64_t> sizes;
    descent.in_play().for_each([&](int64_t, int32_t leaf) { sizes.push_back(leaves.n_rows(leaf)); });
    keep = kept_leaves(descent.scores(), sizes, rule);
  }
  ClusterRuns rows;
  descent.in_play().for_each([&](int64_t i, int32_t leaf) {
    if (keep[static_cast<size_t>(i)]) {
      rows.add(leaves.first_row[leaf], leaves.first_row[leaf + 1]);
    } else {
      selection.dropped.push_back({level, leaf});
    }
  });
  selection.ranges = rows.runs();
  selection.n_keys = rows.size();
}

}  // namespace

Selection select_clusters(const HeadView& head, TensorView queries, float softmax_scale, const SelectionRule& rule) {
  check_block(head, queries, softmax_scale);
  check_rule(head, rule);
  Selection selection;
  Descent descent(head, queries, softmax_scale);
  for (int32_t level = 0; !descent.at_leaves(); ++level) {
    const bool prunes = rule.rule != Rule::all && !rule.thresholds.empty();
    const float threshold = prunes ? rule.thresholds[static_cast<size_t>(level)] : -kInfinity;
    if (threshold == -kInfinity) {
      descent.descend_to_all();
      continue;
    }
    descent.score();
    const auto keep = [&](int64_t i) { return descent.scores()[static_cast<size_t>(i)] > threshold; };
    descent.drop_unless(keep);
    descent.in_play().for_each([&](int64_t i, int32_t cluster) {
      if (!keep(i)) selection.dropped.push_back({level, cluster});
    });
    descent.descend(keep);
  }
  select_leaves(descent, static_cast<int32_t>(head.levels.size()) - 1, rule, selection);
  selection.n_scored = descent.n_scored();
  return selection;
}

std::vector<std::vector<float>> cluster_scores(const HeadView& head, TensorView queries, float softmax_scale,
                                               const Thresholds& thresholds) {
  check_block(head, queries, softmax_scale);
  if (!thresholds.empty() && thresholds.size() + 1 < head.levels.size()) {
    fail("an index of {} levels needs {} upper thresholds, found {}", head.levels.size(), head.levels.size() - 1,
         thresholds.size());
  }
  std::vector<std::vector<float>> result;
  Descent descent(head, queries, softmax_scale);
  while (true) {
    descent.score();
    auto& scores =
        result.emplace_back(static_cast<size_t>(descent.level().n_clusters()), std::numeric_limits<float>::quiet_NaN());
    descent.in_play().for_each([&](int64_t i, int32_t cluster) {
      scores[static_cast<size_t>(cluster)] = descent.scores()[static_cast<size_t>(i)];
    });
    if (descent.at_leaves()) return result;
    const float threshold = thresholds.empty() ? -kInfinity : thresholds[result.size() - 1];
    const auto keep = [&](int64_t i) { return descent.scores()[static_cast<size_t>(i)] > threshold; };
    descent.drop_unless(keep);
    descent.descend(keep);
  }
}

}  // namespace squeeze
