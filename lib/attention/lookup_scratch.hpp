// What a lookup computes in.
#pragma once

#include <algorithm>

#include "lib/attention/keeper.hpp"
#include "lib/attention/key_stage.hpp"

namespace squeeze {

// Kept from one lookup to the next, it saves all allocations once its buffers have grown. One lookup at a time.
struct LookupScratch {
  SelectionRule rule;  // a policy may complete its own here
  Selection spare;     // a selection that is no longer needed: its memory goes to the next one
  Descent descent;
  KeyStage keys;
  Keeper keeper;

  // Makes room for any lookup of n_rows query rows in this head: two floats per row and clustered key at most, of which
  // only what lookups use is ever touched.
  void reserve(const HeadView& head, int64_t n_rows) {
    rule.thresholds.reserve(head.n_stages());
    rule.keep_keys.reserve(head.levels.size());
    descent.reserve(head, n_rows);
    keys.reserve(head, n_rows);
    keeper.reserve(std::max(head.n_clustered(), int64_t{0}));
  }
};

}  // namespace squeeze
