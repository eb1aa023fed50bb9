// Checks the laws of an index, shapes first, so that later checks may rely on earlier ones.
#include "lib/index/verify.hpp"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "lib/core/parallel.hpp"
#include "lib/index/layout.hpp"
#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

using Violations = std::vector<std::string>;

bool is_rows_by_dim(TensorView x, int64_t n_rows, int64_t dim) {
  return x.shape().rank() == 2 && x.size(0) == n_rows && x.size(1) == dim;
}

void check_shapes(const HeadView& head, Violations& found) {
  if (head.keys.shape().rank() != 2 || head.keys.size(1) < 1 || head.values.shape() != head.keys.shape()) {
    found.push_back(fmt::format("keys {} and values {} are not both [n_tokens, head_dim]", head.keys.shape().str(),
                                head.values.shape().str()));
    return;
  }
  const size_t n_scales = head.keys.dtype() == DType::i8 ? static_cast<size_t>(head.n_tokens()) : 0;
  if (head.values.dtype() != head.keys.dtype() || head.key_scales.size() != n_scales ||
      head.value_scales.size() != n_scales) {
    found.push_back(fmt::format("{} keys of {} have {} scales, values of {} have {}", head.n_tokens(),
                                name_of(head.keys.dtype()), head.key_scales.size(), name_of(head.values.dtype()),
                                head.value_scales.size()));
    return;
  }
  const int64_t n_tokens = head.n_tokens();
  if (static_cast<int64_t>(head.token_of_row.size()) != n_tokens) {
    found.push_back(fmt::format("token_of_row has {} entries for {} tokens", head.token_of_row.size(), n_tokens));
  }
  if (head.n_sinks < 0 || head.n_window < 0 || int64_t{head.n_sinks} + head.n_window >= n_tokens) {
    found.push_back(fmt::format("{} sinks and a window of {} leave nothing to cluster of {} tokens", head.n_sinks,
                                head.n_window, n_tokens));
  }
  if (head.levels.empty()) found.push_back("there is no level of clusters");
  for (size_t level = 0; level < head.levels.size(); ++level) {
    const LevelView& view = head.levels[level];
    if (view.n_clusters() < 1 || !is_rows_by_dim(view.centroids, view.n_clusters(), head.keys.size(1)) ||
        !is_rows_by_dim(view.value_means, view.n_clusters(), head.keys.size(1))) {
      found.push_back(fmt::format("level {}: {} clusters with centroids {} and value means {}", level,
                                  view.n_clusters(), view.centroids.shape().str(), view.value_means.shape().str()));
    }
  }
}

void check_permutation(const HeadView& head, Violations& found) {
  const int64_t n = head.n_tokens();
  std::vector<char> seen(static_cast<size_t>(n), 0);
  for (int64_t row = 0; row < n; ++row) {
    const int32_t token = head.token_of_row[static_cast<size_t>(row)];
    if (token < 0 || token >= n || seen[static_cast<size_t>(token)]) {
      found.push_back(fmt::format("token_of_row is not a permutation: row {} holds token {}", row, token));
      return;
    }
    seen[static_cast<size_t>(token)] = 1;
    const bool pinned = row < head.n_sinks || row >= n - head.n_window;
    if (pinned && token != row) {
      found.push_back(fmt::format("pinned row {} holds token {}", row, token));
      return;
    }
  }
}

// Whether `first` is strictly ascending from `begin` to `end`: runs that are not empty and cover [begin, end).
bool covers(std::span<const int32_t> first, int64_t begin, int64_t end) {
  if (first.size() < 2 || first.front() != begin || first.back() != end) return false;
  for (size_t i = 1; i < first.size(); ++i) {
    if (first[i] <= first[i - 1]) return false;
  }
  return true;
}

void check_rows(const HeadView& head, Violations& found) {
  for (size_t level = 0; level < head.levels.size(); ++level) {
    if (!covers(head.levels[level].first_row, head.n_sinks, head.n_tokens() - head.n_window)) {
      found.push_back(fmt::format("level {}: its clusters do not cover the {} clustered rows, each once and none empty",
                                  level, head.n_clustered()));
    }
  }
}

void check_children(const HeadView& head, Violations& found) {
  for (size_t level = 0; level + 1 < head.levels.size(); ++level) {
    const LevelView& upper = head.levels[level];
    const LevelView& lower = head.levels[level + 1];
    if (static_cast<int64_t>(upper.first_child.size()) != upper.n_clusters() + 1 ||
        !covers(upper.first_child, 0, lower.n_clusters())) {
      found.push_back(
          fmt::format("level {}: its children are not the {} clusters below, each once", level, lower.n_clusters()));
      continue;
    }
    for (size_t i = 0; i < upper.first_row.size(); ++i) {
      if (lower.first_row[static_cast<size_t>(upper.first_child[i])] != upper.first_row[i]) {
        found.push_back(fmt::format("level {}: the children of cluster {} do not cover its rows", level, i));
        break;
      }
    }
  }
}

void check_leaf_order(const HeadView& head, Violations& found) {
  const LevelView& leaves = head.levels.back();
  for (int64_t leaf = 0; leaf < leaves.n_clusters(); ++leaf) {
    const auto end = static_cast<size_t>(leaves.first_row[static_cast<size_t>(leaf) + 1]);
    for (auto row = static_cast<size_t>(leaves.first_row[static_cast<size_t>(leaf)]) + 1; row < end; ++row) {
      if (head.token_of_row[row] <= head.token_of_row[row - 1]) {
        found.push_back(fmt::format("leaf {}: its rows do not ascend by token at row {}", leaf, row));
        return;
      }
    }
  }
}

// Half a unit in the last place at 1, and half the spacing of the smallest numbers.
struct Rounding {
  double relative;
  double absolute;
};

Rounding rounding_of(DType dtype) {
  if (dtype == DType::f32) return {0x1p-24, 0x1p-150};
  return dtype == DType::bf16 ? Rounding{0x1p-8, 0x1p-134} : Rounding{0x1p-11, 0x1p-25};
}

// A mean computed from rows that are themselves off by at most `slack` on average.
struct RowMean {
  double value;
  double magnitude;  // mean of the magnitudes
  double slack;
  double n;
};

// Whether `stored` is `mean`, rounded to float32 and then to its type. Both the writer and this file sum n numbers in
// float64, which is off by at most n x 2^-53 x the sum of their magnitudes each.
bool is_rounded_mean(double stored, const RowMean& mean, DType dtype) {
  const Rounding rounding = rounding_of(dtype);
  const double off = 2 * mean.n * 0x1p-53 * mean.magnitude + mean.slack;
  const double magnitude = std::abs(mean.value) * (1 + 0x1p-23) + off;
  const double bound = magnitude * (rounding.relative + 0x1p-23) + rounding.absolute + 0x1p-149 + off;
  return std::abs(stored - mean.value) <= bound;
}

// An integer times its row's scale: half a step, and the rounding of the scale.
bool is_quantised_mean(double stored, const RowMean& mean, double scale) {
  const double magnitude = std::abs(mean.value) + mean.slack;
  return std::abs(stored - mean.value) <= 0.5 * scale * (1 + 0x1p-10) + magnitude * 0x1p-20 + 0x1p-140 + mean.slack;
}

// How far rows in 8 bits are off on average: half a step each, and the rounding of its quotient.
double mean_slack(const ScaledRows& rows, int64_t begin, int64_t end) {
  double steps = 0;
  for (int64_t r = begin; r < end && !rows.scales.empty(); ++r) steps += double{rows.scales[static_cast<size_t>(r)]};
  return 0.5 * (1 + 0x1p-10) * steps / static_cast<double>(end - begin);
}

// The first cluster whose stored mean is not the mean of its rows; -1: none.
int64_t first_wrong_mean(const ScaledRows& rows, const ScaledRows& means, std::span<const int32_t> first_row) {
  const auto width = static_cast<size_t>(rows.rows.size(1));
  std::vector<float> row(width), stored_mean(width);
  for (int64_t cluster = 0; cluster < means.rows.size(0); ++cluster) {
    means.widen(cluster, cluster + 1, stored_mean.data());
    const int64_t begin = first_row[static_cast<size_t>(cluster)];
    const int64_t end = first_row[static_cast<size_t>(cluster) + 1];
    const auto n = static_cast<double>(end - begin);
    const double slack = mean_slack(rows, begin, end);
    std::vector<double> sum(width, 0.0);
    std::vector<double> magnitude(width, 0.0);
    for (int64_t r = begin; r < end; ++r) {
      rows.widen(r, r + 1, row.data());
      for (size_t c = 0; c < width; ++c) {
        sum[c] += double{row[c]};
        magnitude[c] += std::abs(double{row[c]});
      }
    }
    for (size_t c = 0; c < width; ++c) {
      const double stored = stored_mean[c];
      const RowMean mean{sum[c] / n, magnitude[c] / n, slack, n};
      const bool right = means.scales.empty()
                             ? is_rounded_mean(stored, mean, means.rows.dtype())
                             : is_quantised_mean(stored, mean, means.scales[static_cast<size_t>(cluster)]);
      if (!right) return cluster;
    }
  }
  return -1;
}

void check_means(const HeadView& head, const ScaledRows& keys, const ScaledRows& values, Violations& found) {
  for (size_t level = 0; level < head.levels.size(); ++level) {
    const LevelView& view = head.levels[level];
    const int64_t key = first_wrong_mean(keys, view.centroid_rows(), view.first_row);
    if (key >= 0)
      found.push_back(fmt::format("level {}: the centroid of cluster {} is not its keys' mean", level, key));
    const int64_t value = first_wrong_mean(values, view.value_rows(), view.first_row);
    if (value >= 0) {
      found.push_back(fmt::format("level {}: the value mean of cluster {} is not its values' mean", level, value));
    }
  }
}

SketchCodebooks codebooks_of(const SketchView& view) {
  return {view.group_dim,
          {view.dims.begin(), view.dims.end()},
          {view.entries.begin(), view.entries.end()},
          {view.steps.begin(), view.steps.end()},
          0};
}

// The sketches must be those of the keys, centroids and codebooks, bit by bit. Keys in 8 bits do not tell, and nobody
// makes those of older files any more.
void check_sketches(const HeadView& head, TensorView keys, Violations& found) {
  const SketchView& stored = head.sketches;
  if (!stored.present() || stored.rotation.data() || keys.dtype() == DType::i8) return;
  const TensorView clustered = keys.slice(head.n_sinks, head.n_tokens() - head.n_window);
  const Sketches expected = sketch_keys(clustered, head.levels.back(), codebooks_of(stored));
  if (std::memcmp(expected.codes.data(), stored.codes, expected.codes.size()) != 0 ||
      std::memcmp(expected.scales.data(), stored.scales, expected.scales.size() * sizeof(uint16_t)) != 0 ||
      expected.codebooks.error != stored.error) {
    found.push_back("the sketches are not those of the keys");
  }
}

// Whether row `i` is the row [1, head_dim] of the dump, byte by byte, once that is rounded as the index's rows are.
bool is_dumped_row(const ScaledRows& rows, int64_t i, TensorView dumped) {
  const TensorView row = rows.rows.slice(i, i + 1);
  if (rows.scales.empty()) return std::memcmp(row.data(), dumped.data(), row.n_bytes()) == 0;
  const QuantisedRows rounded = quantise(convert(dumped, DType::f32));
  return rows.scales[static_cast<size_t>(i)] == rounded.scales[0] &&
         std::memcmp(row.data(), rounded.rows.data(), row.n_bytes()) == 0;
}

// The dump's rows in row order; none if they do not fit the index's.
Tensor check_dump(const ScaledRows& rows, TensorView dump, std::span<const int32_t> token_of_row, const char* what,
                  Violations& found) {
  if (!dump.data()) return {};
  const DType dtype = rows.rows.dtype();
  if (dump.shape() != rows.rows.shape() || (dtype == DType::i8 ? dump.dtype() == dtype : dump.dtype() != dtype)) {
    found.push_back(fmt::format("the dump's {} are {} {}, the index's {} {}", what, name_of(dump.dtype()),
                                dump.shape().str(), name_of(dtype), rows.rows.shape().str()));
    return {};
  }
  Tensor ordered(dump.dtype(), dump.shape());
  gather_rows(dump, token_of_row, ordered.data());
  for (int64_t row = 0; row < ordered.size(0); ++row) {
    if (is_dumped_row(rows, row, ordered.view().slice(row, row + 1))) continue;
    found.push_back(
        fmt::format("{}: row {} differs from token {} of the dump", what, row, token_of_row[static_cast<size_t>(row)]));
    break;
  }
  return ordered;
}

// What means and sketches are made of: the rows as they came where the index has rounded ones and the dump is there.
ScaledRows sources(const ScaledRows& rows, const Tensor& dumped) {
  return rows.scales.empty() || !dumped.data() ? rows : ScaledRows{dumped, {}};
}

}  // namespace

std::vector<std::string> verify_head(const HeadView& head, TensorView dump_keys, TensorView dump_values) {
  Violations found;
  check_shapes(head, found);
  if (!found.empty()) return found;
  check_permutation(head, found);
  check_rows(head, found);
  if (!found.empty()) return found;
  check_children(head, found);
  check_leaf_order(head, found);
  const Tensor keys = check_dump(head.key_rows(), dump_keys, head.token_of_row, "keys", found);
  const Tensor values = check_dump(head.value_rows(), dump_values, head.token_of_row, "values", found);
  const ScaledRows key_sources = sources(head.key_rows(), keys);
  check_means(head, key_sources, sources(head.value_rows(), values), found);
  check_sketches(head, key_sources.rows, found);
  return found;
}

std::vector<std::string> verify_layer(const std::vector<HeadView>& heads, TensorView dump_keys,
                                      TensorView dump_values) {
  const auto n_heads = static_cast<int64_t>(heads.size());
  for (const TensorView dump : {dump_keys, dump_values}) {
    if (dump.data() && (dump.shape().rank() != 3 || dump.size(0) != n_heads)) {
      return {fmt::format("the dump's shape {} does not fit {} KV heads", dump.shape().str(), n_heads)};
    }
  }
  std::vector<Violations> found(heads.size());
  parallel_for(n_heads, [&](int64_t h) {
    found[static_cast<size_t>(h)] =
        verify_head(heads[static_cast<size_t>(h)], dump_keys.data() ? dump_keys[h] : TensorView(),
                    dump_values.data() ? dump_values[h] : TensorView());
  });
  Violations all;
  for (size_t h = 0; h < heads.size(); ++h) {
    for (const std::string& sentence : found[h]) all.push_back(fmt::format("KV head {}: {}", h, sentence));
  }
  return all;
}

}  // namespace squeeze
