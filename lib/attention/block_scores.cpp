// Scores by the kernels, a query row at a time, with the running maximum subtracted.
#include "lib/attention/block_scores.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Turns one row's logits into exp(logit - max), a run at a time; returns their sum.
float exponentiate_runs(std::span<float> row, float max, RunSums& runs) {
  double total = 0;
  int64_t begin = 0;
  for (const int64_t end : runs.ends) {
    runs.sums.push_back(kernels().exp_sum(row.data() + begin, end - begin, max, nullptr));
    total += double{runs.sums.back()};
    begin = end;
  }
  runs.max.push_back(max);
  return static_cast<float>(total);
}

// Turns one row's logits into exp(logit - max); returns the factor that makes them scores.
float exponentiate(std::span<float> row, std::span<const float> sizes, double dropped_log_sum, RunSums* runs) {
  const auto n = static_cast<int64_t>(row.size());
  const Extent extent = kernels().extent(row.data(), n);
  const float max = std::max(extent.largest, static_cast<float>(dropped_log_sum));
  const float kept = runs ? exponentiate_runs(row, max, *runs)
                          : kernels().exp_sum(row.data(), n, max, sizes.empty() ? nullptr : sizes.data());
  if (extent.smallest == -kInfinity || extent.largest == kInfinity || std::isnan(kept)) {
    fail("scores of a block are not finite (NaN or infinity)");
  }
  return 1.0f / (kept + static_cast<float>(std::exp(dropped_log_sum - double{max})));
}

// out += sum over n_rows of factor * row.
void add_rows(const float* factors, const float* rows, int64_t n_rows, int64_t n, float* out) {
  kernels().weighted_sum({factors, n_rows, 1, rows, n_rows, n, out});
}

// The order of best_first (key_choice.hpp), for every lookup: scores are not negative, so that their bits ascend with
// them, and three passes of a radix sort, which keeps the order of equals, take a sixth of the time of a heap.
std::vector<int32_t> radix_order(std::span<const float> scores) {
  constexpr int kBits = 11;
  constexpr uint32_t kBuckets = 1u << kBits;
  struct Item {
    uint32_t key;
    int32_t number;
  };
  std::vector<Item> items(scores.size()), sorted(scores.size());
  for (size_t i = 0; i < items.size(); ++i) items[i] = {~bits_of_float(scores[i]), static_cast<int32_t>(i)};
  for (int shift = 0; shift < 32; shift += kBits) {
    std::array<size_t, kBuckets + 1> first = {};
    for (const Item& item : items) ++first[(item.key >> shift) % kBuckets + 1];
    for (size_t b = 0; b < kBuckets; ++b) first[b + 1] += first[b];
    for (const Item& item : items) sorted[first[(item.key >> shift) % kBuckets]++] = item;
    std::swap(items, sorted);
  }
  std::vector<int32_t> order;
  order.reserve(items.size());
  for (const Item& item : items) order.push_back(item.number);
  return order;
}

// Calls take(i) for the best items, score descending, until it returns false.
template <class Take>
void for_best(std::span<const float> scores, const Take& take) {
  for (const int32_t i : radix_order(scores)) {
    if (!take(static_cast<size_t>(i))) return;
  }
}

int64_t size_of_item(std::span<const float> sizes, size_t i) {
  return sizes.empty() ? 1 : static_cast<int64_t>(sizes[i]);
}

// A score that, by a sample, few more than `count` reach; -infinity where that cannot be told.
float likely_border(std::span<const float> scores, int64_t count) {
  constexpr int64_t kSamples = 1024;
  const auto n = std::ssize(scores);
  const auto expected = static_cast<double>(kSamples * count) / static_cast<double>(n);
  const auto rank = static_cast<int64_t>(expected + 4 * std::sqrt(expected) + 4);  // four deviations more
  if (rank >= kSamples) return -kInfinity;
  std::array<float, kSamples> sample;
  for (int64_t i = 0; i < kSamples; ++i) {
    sample[static_cast<size_t>(i)] = scores[static_cast<size_t>(i * n / kSamples)];
  }
  std::nth_element(sample.begin(), sample.begin() + rank, sample.end(), std::greater<>());
  return sample[static_cast<size_t>(rank)];
}

// The items whose score is at least `least`, ascending.
std::vector<int32_t> items_from(std::span<const float> scores, float least) {
  std::vector<char> is_in(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) is_in[i] = scores[i] >= least;
  std::vector<int32_t> items;
  for_each_one(is_in, 0, std::ssize(is_in), [&](int64_t i) { items.push_back(static_cast<int32_t>(i)); });
  return items;
}

// The best single items: a partial sort would do the same, slower.
void keep_best_singles(std::span<const float> scores, int64_t count, std::vector<char>& keep) {
  if (count >= std::ssize(scores)) {
    std::fill(keep.begin(), keep.end(), char{1});
    return;
  }
  if (count <= 0) return;
  std::vector<int32_t> items = items_from(scores, likely_border(scores, count));
  if (std::ssize(items) < count) items = items_from(scores, -kInfinity);
  const auto is_better = [&](int32_t a, int32_t b) {
    const float x = scores[static_cast<size_t>(a)], y = scores[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  std::nth_element(items.begin(), items.begin() + count - 1, items.end(), is_better);
  for (const int32_t i : std::span(items).first(static_cast<size_t>(count))) keep[static_cast<size_t>(i)] = 1;
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
    if (added == -double{kInfinity}) continue;
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

BlockScores block_scores(std::span<float> logits, int64_t n, std::span<const float> sizes, const DroppedMass& dropped,
                         const BlockShape& block, RunSums* runs) {
  const auto width = static_cast<size_t>(n);
  const int64_t n_heads = block.group.select == GqaSelect::group_mean ? 1 : block.group.size;
  const float share = static_cast<float>(n_heads) / static_cast<float>(block.n_rows);
  std::vector<float> factors;
  for (int64_t r = 0; r < block.n_rows && n > 0; ++r) {
    const std::span<float> row = logits.subspan(static_cast<size_t>(r) * width, width);
    factors.push_back(share * exponentiate(row, sizes, dropped.log_sum(r), runs));
  }
  std::vector<float> heads(static_cast<size_t>(n_heads) * width, 0.0f);
  if (n_heads == 1) {
    add_rows(factors.data(), logits.data(), std::ssize(factors), n, heads.data());
  } else {
    for (int64_t r = 0; r < std::ssize(factors); ++r) {
      add_rows(factors.data() + r, logits.data() + r * n, 1, n, heads.data() + r % n_heads * n);
    }
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
