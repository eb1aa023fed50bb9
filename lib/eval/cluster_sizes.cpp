// A histogram of leaf sizes.
#include "lib/eval/cluster_sizes.hpp"

#include <bit>

namespace squeeze {
namespace {

void add_cluster(int32_t n_keys, std::vector<SizeBin>& bins) {
  const auto bin = static_cast<size_t>(std::bit_width(static_cast<uint32_t>(n_keys)) - 1);
  while (bins.size() <= bin) {
    const int64_t from = int64_t{1} << bins.size();
    bins.push_back({from, 2 * from - 1, 0, 0});
  }
  ++bins[bin].n_clusters;
  bins[bin].n_keys += n_keys;
}

}  // namespace

std::vector<SizeBin> leaf_sizes(const ContextView& context) {
  std::vector<SizeBin> bins;
  for (const std::vector<HeadView>& heads : context.layers) {
    for (const HeadView& head : heads) {
      if (head.levels.empty()) continue;
      const LevelView& leaves = head.levels.back();
      for (int64_t i = 0; i < leaves.n_clusters(); ++i) {
        if (leaves.n_rows(i) > 0) add_cluster(leaves.n_rows(i), bins);
      }
    }
  }
  return bins;
}

}  // namespace squeeze
