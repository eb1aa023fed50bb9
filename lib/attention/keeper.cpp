// Cuts by a threshold, by a number of keys and by mass.
#include "lib/attention/keeper.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/kernels.hpp"
#include "lib/core/scratch.hpp"

namespace squeeze {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

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

}  // namespace

// The order of best_first (key_choice.hpp), for every lookup: scores are not negative, so that their bits ascend with
// them, and three passes of a radix sort, which keeps the order of equals, take a sixth of the time of a heap.
void Keeper::sort_by_score(std::span<const float> scores) {
  constexpr int kBits = 11;
  constexpr uint32_t kBuckets = 1u << kBits;
  resize_with_room(items_, scores.size());
  resize_with_room(sorted_, scores.size());
  for (size_t i = 0; i < items_.size(); ++i) items_[i] = {~bits_of_float(scores[i]), static_cast<int32_t>(i)};
  for (int shift = 0; shift < 32; shift += kBits) {
    std::array<size_t, kBuckets + 1> first = {};
    for (const Item& item : items_) ++first[(item.key >> shift) % kBuckets + 1];
    for (size_t b = 0; b < kBuckets; ++b) first[b + 1] += first[b];
    for (const Item& item : items_) sorted_[first[(item.key >> shift) % kBuckets]++] = item;
    std::swap(items_, sorted_);
  }
}

// Calls take(i) for the best items, score descending, until it returns false.
template <class Take>
void Keeper::for_best(std::span<const float> scores, const Take& take) {
  sort_by_score(scores);
  for (const Item& item : items_) {
    if (!take(static_cast<size_t>(item.number))) return;
  }
}

// The items whose score is at least `least`, ascending.
void Keeper::find_from(std::span<const float> scores, float least) {
  resize_with_room(found_, scores.size());
  found_.resize(static_cast<size_t>(kernels().find_from(scores.data(), std::ssize(scores), least, found_.data())));
}

namespace {

// The count-th largest of n numbers: a histogram finds a few of them that it is among. middle: memory for these.
uint32_t count_th_largest(std::span<const uint32_t> x, int64_t count, std::vector<uint32_t>& middle) {
  constexpr int kBits = 10;
  constexpr uint32_t kBuckets = 1u << kBits;
  const auto [least, most] = std::minmax_element(x.begin(), x.end());
  const uint32_t low = *least;
  const int shift = std::max(0, static_cast<int>(std::bit_width(*most - low)) - kBits);
  std::array<int32_t, kBuckets> n_in = {};
  for (const uint32_t value : x) ++n_in[(value - low) >> shift];
  uint32_t bucket = kBuckets - 1;
  for (; count > n_in[bucket]; --bucket) count -= n_in[bucket];
  middle.clear();
  for (const uint32_t value : x) {
    if ((value - low) >> shift == bucket) middle.push_back(value);
  }
  std::nth_element(middle.begin(), middle.begin() + count - 1, middle.end(), std::greater<>());
  return middle[static_cast<size_t>(count - 1)];
}

}  // namespace

// The best `count` items, of equal ones the lower, to found_, ascending. Scores are not negative: their bits ascend
// with them.
void Keeper::find_best(std::span<const float> scores, int64_t count) {
  if (count <= 0) return found_.clear();
  if (count >= std::ssize(scores)) return find_from(scores, -kInfinity);
  find_from(scores, likely_border(scores, count));
  if (std::ssize(found_) < count) find_from(scores, -kInfinity);
  bits_.clear();
  for (const int32_t i : found_) bits_.push_back(bits_of_float(scores[static_cast<size_t>(i)]));
  const uint32_t border = count_th_largest(bits_, count, middle_);
  const auto n_above = std::count_if(bits_.begin(), bits_.end(), [&](uint32_t bits) { return bits > border; });
  int64_t n_equal = count - n_above;
  size_t n = 0;
  for (size_t i = 0; i < bits_.size(); ++i) {
    if (bits_[i] < border || (bits_[i] == border && --n_equal < 0)) continue;
    found_[n++] = found_[i];
  }
  found_.resize(n);
}

std::span<const int32_t> Keeper::numbers(const std::vector<char>& keep) {
  found_.clear();
  for (size_t i = 0; i < keep.size(); ++i) {
    if (keep[i]) found_.push_back(static_cast<int32_t>(i));
  }
  return found_;
}

std::span<const int32_t> Keeper::best_singles(const BlockScores& scores, int64_t max_items) {
  if (scores.n_views() != 1) return numbers(best(scores, {}, max_items));
  find_best(scores.view(0), max_items);
  return found_;
}

void Keeper::reserve(int64_t n_items) {
  const auto n = static_cast<size_t>(n_items);
  keep_.reserve(n);
  items_.reserve(n);
  sorted_.reserve(n);
  found_.reserve(n);
  bits_.reserve(n);
  middle_.reserve(n);
}

const std::vector<char>& Keeper::all(int64_t n) {
  assign_with_room(keep_, static_cast<size_t>(n), char{1});
  return keep_;
}

const std::vector<char>& Keeper::above(const BlockScores& scores, float threshold) {
  assign_with_room(keep_, static_cast<size_t>(scores.n), char{0});
  for (int64_t v = 0; v < scores.n_views(); ++v) {
    const std::span<const float> view = scores.view(v);
    for (size_t i = 0; i < keep_.size(); ++i) keep_[i] = keep_[i] || view[i] > threshold;
  }
  return keep_;
}

const std::vector<char>& Keeper::best(const BlockScores& scores, std::span<const float> sizes, int64_t max_keys,
                                      bool skip_large) {
  assign_with_room(keep_, static_cast<size_t>(scores.n), char{0});
  if (max_keys <= 0 || scores.n == 0) return keep_;
  const int64_t n_views = scores.n_views();
  for (int64_t v = 0; v < n_views; ++v) {
    const int64_t own_keys = max_keys / n_views + (v < max_keys % n_views ? 1 : 0);
    if (own_keys == 0) break;
    if (sizes.empty()) {
      find_best(scores.view(v), own_keys);
      for (const int32_t i : found_) keep_[static_cast<size_t>(i)] = 1;
      continue;
    }
    int64_t n_keys = 0;
    for_best(scores.view(v), [&](size_t i) {
      const int64_t size = size_of_item(sizes, i);
      const bool fits = n_keys + size <= own_keys || n_keys == 0;
      if (fits) {
        keep_[i] = 1;
        n_keys += size;
      }
      return fits ? n_keys < own_keys : skip_large;
    });
  }
  return keep_;
}

const std::vector<char>& Keeper::mass(const BlockScores& scores, std::span<const float> sizes, double mass) {
  assign_with_room(keep_, static_cast<size_t>(scores.n), char{0});
  for (int64_t v = 0; v < scores.n_views(); ++v) {
    const std::span<const float> view = scores.view(v);
    double held = 0;
    for_best(view, [&](size_t i) {
      if (held >= mass) return false;
      keep_[i] = 1;
      held += static_cast<double>(size_of_item(sizes, i)) * double{view[i]};
      return true;
    });
  }
  return keep_;
}

}  // namespace squeeze
