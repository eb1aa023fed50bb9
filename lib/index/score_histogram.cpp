// Thresholds from the counts: one walk over the bins for all shares.
#include "lib/index/score_histogram.hpp"

#include <limits>
#include <numeric>

namespace squeeze {

std::vector<float> ScoreHistogram::thresholds(const std::vector<double>& shares) const {
  const uint64_t total = std::accumulate(bins_.begin(), bins_.end(), n_dropped_);
  std::vector<float> result;
  float threshold = -std::numeric_limits<float>::infinity();
  auto below = static_cast<double>(n_dropped_);  // keys at or below `threshold`
  size_t next = 0;                               // the first bin above `threshold`
  for (const double share : shares) {
    const double wanted = share * static_cast<double>(total);
    while (next < kBins) {
      const double with_next = below + static_cast<double>(bins_[next]);
      if (with_next - wanted > wanted - below) break;  // stepping over the bin would lead further away
      if (bins_[next] > 0) {
        below = with_next;
        threshold = float_of_bits((static_cast<uint32_t>(next + 1) << kShift) - 1);  // the bin's largest score
      }
      ++next;
    }
    result.push_back(threshold);
  }
  return result;
}

}  // namespace squeeze
