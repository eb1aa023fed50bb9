// Counts of keys by score, fine enough to read thresholds from, in memory that does not grow with the context.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "kernels/dtype.hpp"

namespace squeeze {

// Bins are the leading 20 of the 31 bits of a non-negative float: all 8 of the exponent, 12 of the fraction.
class ScoreHistogram {
 public:
  ScoreHistogram() : bins_(kBins, 0) {}

  // Adds n_keys keys of one score, in [0, 1] (or a rounding error above). Any thread, any order.
  void add(float score, int64_t n_keys) {
    const size_t bin = std::min<size_t>(bits_of_float(score) >> kShift, kBins - 1);
    std::atomic_ref(bins_[bin]).fetch_add(static_cast<uint64_t>(n_keys), std::memory_order_relaxed);
  }
  // Adds keys that an upper level dropped: they lie below every threshold.
  void add_dropped(int64_t n_keys) {
    std::atomic_ref(n_dropped_).fetch_add(static_cast<uint64_t>(n_keys), std::memory_order_relaxed);
  }
  // For each share, ascending: the threshold whose keys with score <= threshold, and the dropped ones, are nearest to
  // that share of all keys.
  std::vector<float> thresholds(const std::vector<double>& shares) const;

 private:
  static constexpr uint32_t kShift = 11;
  static constexpr size_t kBins = (0x3f800000u >> kShift) + 2;  // up to 1, and a little rounding above
  std::vector<uint64_t> bins_;
  uint64_t n_dropped_ = 0;
};

}  // namespace squeeze
