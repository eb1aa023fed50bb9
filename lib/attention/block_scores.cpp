// Scores by the kernels, a query row at a time, with the running maximum subtracted.
#include "lib/attention/block_scores.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Turns one row's logits into exp(logit - max); returns the factor that makes them scores.
float exponentiate(std::span<float> row, const float* sizes, double dropped_log_sum) {
  const auto n = static_cast<int64_t>(row.size());
  const Extent extent = kernels().extent(row.data(), n);
  const float max = std::max(extent.largest, static_cast<float>(dropped_log_sum));
  const float kept = kernels().exp_sum(row.data(), n, max, sizes);
  if (extent.smallest == -kInfinity || extent.largest == kInfinity || std::isnan(kept)) {
    fail("scores of a block are not finite (NaN or infinity)");
  }
  return 1.0f / (kept + static_cast<float>(std::exp(dropped_log_sum - double{max})));
}

// Calls take(i) for the best items, score descending, until it returns false.
template <class Take>
void for_best(std::span<const float> scores, const Take& take) {
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

int64_t size_of_item(std::span<const float> sizes, size_t i) {
  return sizes.empty() ? 1 : static_cast<int64_t>(sizes[i]);
}

// The count-th largest of the scores, none negative, 0 < count <= n: the bits of such floats ascend with them, so that
// a histogram of their first twelve finds the few that are worth sorting.
float largest_but(std::span<const float> scores, int64_t count) {
  constexpr int kShift = 20;
  std::array<int64_t, 1 << (32 - kShift)> n_in = {};
  for (const float x : scores) ++n_in[bits_of_float(x) >> kShift];
  size_t bucket = n_in.size() - 1;
  for (; count > n_in[bucket]; --bucket) count -= n_in[bucket];
  std::vector<float> near;
  near.reserve(static_cast<size_t>(n_in[bucket]));
  for (const float x : scores) {
    if (bits_of_float(x) >> kShift == bucket) near.push_back(x);
  }
  std::nth_element(near.begin(), near.begin() + count - 1, near.end(), std::greater<>());
  return near[static_cast<size_t>(count - 1)];
}

// The best single items: a partial sort would do the same, slower.
void keep_best_singles(std::span<const float> scores, int64_t count, std::vector<char>& keep) {
  const auto n = static_cast<int64_t>(scores.size());
  if (count >= n) {
    std::fill(keep.begin(), keep.end(), char{1});
    return;
  }
  if (count <= 0) return;
  const float border = largest_but(scores, count);
  int64_t room = count;
  for (size_t i = 0; i < scores.size(); ++i) {
    const char is_better = scores[i] > border;
    keep[i] |= is_better;  // of another view it may be 1 already
    room -= is_better;
  }
  for (size_t i = 0; room > 0; ++i) {
    if (scores[i] != border) continue;
    keep[i] = 1;
    --room;
  }
}

}  // namespace

double log_sum_exp(std::span<float> x) {
  const auto n = static_cast<int64_t>(x.size());
  const float max = kernels().extent(x.data(), n).largest;
  if (max == -kInfinity) return -double{kInfinity};
  const float sum = kernels().exp_sum(x.data(), n, max, nullptr);
  return double{max} + std::log(double{sum});
}

DroppedMass::DroppedMass(int64_t n_rows)
    : logits_(static_cast<size_t>(n_rows)), log_sum_(static_cast<size_t>(n_rows), -double{kInfinity}) {}

void DroppedMass::add(std::span<const DroppedCluster> items, std::span<const float> log_mass) {
  if (items.empty()) return;
  items_.insert(items_.end(), items.begin(), items.end());
  std::vector<float> weights;
  for (size_t row = 0; row < logits_.size(); ++row) {
    const std::span<const float> own = log_mass.subspan(row * items.size(), items.size());
    logits_[row].insert(logits_[row].end(), own.begin(), own.end());
    weights.assign(own.begin(), own.end());
    const double added = log_sum_exp(weights);
    const double top = std::max(log_sum_[row], added);
    log_sum_[row] = top + std::log(std::exp(log_sum_[row] - top) + std::exp(added - top));
  }
}

void DroppedMass::move_to(Selection& selection) {
  for (const std::vector<float>& row : logits_) {
    selection.rest_logits.insert(selection.rest_logits.end(), row.begin(), row.end());
  }
  selection.dropped = std::move(items_);
}

BlockScores block_scores(std::span<const float> logits, int64_t n, std::span<const float> sizes,
                         const DroppedMass& dropped, const BlockShape& block) {
  const auto width = static_cast<size_t>(n);
  const int64_t n_heads = block.group.select == GqaSelect::group_mean ? 1 : block.group.size;
  const float share = static_cast<float>(n_heads) / static_cast<float>(block.n_rows);
  std::vector<float> heads, later;  // [n_heads, n]: of the first token, to which the later ones are added; [n]
  heads.reserve(static_cast<size_t>(n_heads) * width);
  for (int64_t r = 0; r < block.n_rows && n > 0; ++r) {
    const std::span<const float> own = logits.subspan(static_cast<size_t>(r) * width, width);
    const bool first = r < n_heads;
    first ? void(heads.insert(heads.end(), own.begin(), own.end())) : later.assign(own.begin(), own.end());
    float* out = heads.data() + r % n_heads * n;
    const std::span<float> row(first ? out : later.data(), width);
    const float factor = share * exponentiate(row, sizes.empty() ? nullptr : sizes.data(), dropped.log_sum(r));
    for (size_t i = 0; i < width; ++i) out[i] = first ? row[i] * factor : out[i] + row[i] * factor;
  }
  if (block.group.select == GqaSelect::group_max) {
    for (int64_t h = 1; h < n_heads; ++h) {
      for (size_t i = 0; i < width; ++i) heads[i] = std::max(heads[i], heads[static_cast<size_t>(h) * width + i]);
    }
    heads.resize(width);
  }
  return {std::move(heads), n};
}

std::vector<char> keep_above(const BlockScores& scores, float threshold) {
  std::vector<char> keep(static_cast<size_t>(scores.n), 0);
  for (int64_t v = 0; v < scores.n_views(); ++v) {
    const std::span<const float> view = scores.view(v);
    for (size_t i = 0; i < keep.size(); ++i) keep[i] = keep[i] || view[i] > threshold;
  }
  return keep;
}

std::vector<char> keep_best(const BlockScores& scores, std::span<const float> sizes, int64_t max_keys,
                            bool skip_large) {
  std::vector<char> keep(static_cast<size_t>(scores.n), 0);
  if (max_keys <= 0 || scores.n == 0) return keep;
  const int64_t n_views = scores.n_views();
  for (int64_t v = 0; v < n_views; ++v) {
    const int64_t own_keys = max_keys / n_views + (v < max_keys % n_views ? 1 : 0);
    if (own_keys == 0) break;
    if (sizes.empty()) {
      keep_best_singles(scores.view(v), own_keys, keep);
      continue;
    }
    int64_t n_keys = 0;
    for_best(scores.view(v), [&](size_t i) {
      const int64_t size = size_of_item(sizes, i);
      const bool fits = n_keys + size <= own_keys || n_keys == 0;
      if (fits) {
        keep[i] = 1;
        n_keys += size;
      }
      return fits ? n_keys < own_keys : skip_large;
    });
  }
  return keep;
}

std::vector<char> keep_mass(const BlockScores& scores, std::span<const float> sizes, double mass) {
  std::vector<char> keep(static_cast<size_t>(scores.n), 0);
  for (int64_t v = 0; v < scores.n_views(); ++v) {
    const std::span<const float> view = scores.view(v);
    double held = 0;
    for_best(view, [&](size_t i) {
      if (held >= mass) return false;
      keep[i] = 1;
      held += static_cast<double>(size_of_item(sizes, i)) * double{view[i]};
      return true;
    });
  }
  return keep;
}

}  // namespace squeeze
