// Kept attention mass and top-k recall.
#include "lib/eval/metrics.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace squeeze {

double kept_mass(std::span<const float> logits, std::span<const RowRange> ranges) {
  if (logits.empty()) return 1;
  const float max = *std::max_element(logits.begin(), logits.end());
  double kept = 0;
  double dropped = 0;
  size_t next = 0;
  const auto mass_until = [&](int32_t end) {
    double mass = 0;
    for (; next < static_cast<size_t>(end); ++next) mass += std::exp(double{logits[next]} - double{max});
    return mass;
  };
  for (const RowRange& range : ranges) {
    dropped += mass_until(range.begin);
    kept += mass_until(range.end);
  }
  dropped += mass_until(static_cast<int32_t>(logits.size()));
  return kept / (kept + dropped);
}

double topk_recall(std::span<const float> logits, std::span<const RowRange> ranges, int64_t k) {
  if (logits.empty()) return 1;
  const auto n_top = static_cast<size_t>(std::clamp<int64_t>(k, 1, static_cast<int64_t>(logits.size())));
  std::vector<float> sorted(logits.begin(), logits.end());
  const auto border_place = sorted.begin() + static_cast<int64_t>(n_top) - 1;
  std::nth_element(sorted.begin(), border_place, sorted.end(), std::greater<>());
  const float border = *border_place;
  const auto n_above =
      static_cast<size_t>(std::count_if(sorted.begin(), border_place, [&](float x) { return x > border; }));
  size_t kept_above = 0;
  size_t kept_equal = 0;
  for (const RowRange& range : ranges) {
    for (auto row = static_cast<size_t>(range.begin); row < static_cast<size_t>(range.end); ++row) {
      kept_above += logits[row] > border;
      kept_equal += logits[row] == border;
    }
  }
  return static_cast<double>(kept_above + std::min(kept_equal, n_top - n_above)) / static_cast<double>(n_top);
}

}  // namespace squeeze
