// A sketched head of two levels, and the laws of its selections, for the tests of the lookup.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "lib/attention/lookup.hpp"
#include "tests/made_sketches.hpp"

namespace squeeze::made_lookup {

inline constexpr float kScale = 0.3f;
inline constexpr int64_t kDim = 16;

// 288 clustered keys in 30 leaves under 6 coarse clusters.
inline IndexLayer sketched(int bits, bool quantise = false) {
  const Tensor keys = topic_keys(1, 300, kDim, 12, 1, DType::bf16);
  return build_layer(keys, keys,
                     options_of({.levels = {{.count = 6}, {.count = 30}}, .bits = bits, .quantise = quantise}));
}

// Rows of each leaf that the selection reads.
inline std::vector<int64_t> rows_read(const HeadView& head, const Selection& selection) {
  const LevelView& leaves = head.levels.back();
  std::vector<int64_t> n(size_t(leaves.n_clusters()), 0);
  const std::vector<int64_t> leaf_of = leaf_of_key(head);
  int32_t end = -1;
  for (const RowRange& range : selection.ranges) {
    CHECK(range.begin > end);  // ascending, and merged where they touch
    CHECK(range.end > range.begin);
    REQUIRE(range.begin >= head.n_sinks);
    REQUIRE(range.end <= head.n_sinks + head.n_clustered());
    for (int32_t row = range.begin; row < range.end; ++row) ++n[size_t(leaf_of[size_t(row - head.n_sinks)])];
    end = range.end;
  }
  return n;
}

// Every clustered row is read, or counted by exactly one dropped cluster; the counts agree.
inline void check_partition(const HeadView& head, const Selection& selection) {
  const std::vector<int64_t> read = rows_read(head, selection);
  std::vector<int64_t> counted = read;
  std::set<std::pair<int32_t, int32_t>> seen;
  for (const DroppedCluster& d : selection.dropped) {
    CHECK(seen.insert({d.level, d.cluster}).second);
    CHECK(d.n_keys > 0);
    if (d.level == 1) {
      counted[size_t(d.cluster)] += d.n_keys;
      continue;
    }
    CHECK(d.n_keys == head.levels[0].n_rows(d.cluster));
    for (int32_t leaf = head.levels[0].first_child[size_t(d.cluster)];
         leaf < head.levels[0].first_child[size_t(d.cluster) + 1]; ++leaf) {
      counted[size_t(leaf)] += head.levels[1].n_rows(leaf);
    }
  }
  int64_t n_keys = 0;
  for (size_t leaf = 0; leaf < read.size(); ++leaf) {
    CHECK(counted[leaf] == head.levels[1].n_rows(int64_t(leaf)));
    n_keys += read[leaf];
  }
  CHECK(selection.n_keys == n_keys);
}

inline Selection select(const HeadView& head, TensorView queries, const SelectionRule& rule) {
  const Selection selection = select_clusters(head, queries, kScale, rule);
  check_partition(head, selection);
  return selection;
}

inline bool same_selection(const Selection& a, const Selection& b) {
  return a.ranges == b.ranges && a.dropped == b.dropped && a.rest_logits == b.rest_logits && a.n_keys == b.n_keys &&
         a.n_scored == b.n_scored && a.n_sketched == b.n_sketched && a.index_bytes == b.index_bytes;
}

inline std::vector<float> sorted(std::vector<float> x) {
  std::erase_if(x, [](float value) { return std::isnan(value); });
  std::sort(x.begin(), x.end());
  return x;
}

inline std::set<int32_t> rows_of(const Selection& selection) {
  std::set<int32_t> rows;
  for (const RowRange& range : selection.ranges) {
    for (int32_t row = range.begin; row < range.end; ++row) rows.insert(row);
  }
  return rows;
}

}  // namespace squeeze::made_lookup
