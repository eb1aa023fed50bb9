// Views of a built layer, and cluster counts.
#include "lib/index/head_index.hpp"

#include <algorithm>
#include <cmath>

#include "lib/index/build.hpp"

namespace squeeze {

HeadView IndexLayer::head(int kv_head) const {
  const HeadIndex& index = heads[static_cast<size_t>(kv_head)];
  HeadView view{keys[kv_head], values[kv_head], index.token_of_row, n_sinks, n_window, {}};
  for (const Level& level : index.levels) view.levels.push_back(level.view());
  return view;
}

int64_t ClusterCount::of(int64_t n_tokens) const {
  if (count > 0) return count;
  return std::max<int64_t>(1, std::llround(share * static_cast<double>(n_tokens)));
}

}  // namespace squeeze
