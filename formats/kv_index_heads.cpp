// Views of a layer's mapped arrays, and the checks that keep readers inside them.
#include <algorithm>
#include <limits>

#include "formats/kv_context.hpp"
#include "formats/kv_index_layout.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

bool ascends(std::span<const int32_t> bounds, int64_t first, int64_t last) {
  if (bounds.front() != first || bounds.back() != last) return false;
  for (size_t i = 1; i < bounds.size(); ++i) {
    if (bounds[i] <= bounds[i - 1]) return false;
  }
  return true;
}

// The mapped arrays of one layer; `where` names it in errors.
struct MappedLayer {
  const MappedFile& file;
  const IndexLayout& layout;
  const IndexLayerExtents& extents;
  std::string where;

  std::span<const int32_t> ints(const h5::Extent& extent, int64_t begin, int64_t n) const {
    const char* data = file.at(extent.offset, extent.n_bytes);
    return {reinterpret_cast<const int32_t*>(data) + begin, static_cast<size_t>(n)};
  }

  TensorView rows(const h5::Extent& extent, DType dtype, int64_t rows_per_head, int64_t kv_head, int64_t n_rows) const {
    const int64_t dim = layout.context.model.head_dim;
    const int64_t n_all = static_cast<int64_t>(extent.n_bytes / size_of(dtype)) / dim;
    const TensorView all(file.at(extent.offset, extent.n_bytes), dtype, {n_all, dim});
    return all.slice(kv_head * rows_per_head, kv_head * rows_per_head + n_rows);
  }

  // Scales that are finite and not negative.
  std::span<const float> scales(const h5::Extent& extent, const char* what, int64_t per_head, int64_t kv_head,
                                int64_t n) const {
    if (extent.n_bytes == 0) return {};
    const auto* data = reinterpret_cast<const float*>(file.at(extent.offset, extent.n_bytes)) + kv_head * per_head;
    const std::span<const float> found(data, static_cast<size_t>(n));
    for (const float scale : found) {
      if (!(scale >= 0 && scale <= std::numeric_limits<float>::max())) {
        fail("{}: head {}: the scale of {} is {}, expected a finite number from 0", where, kv_head, what, scale);
      }
    }
    return found;
  }

  // One head's part of an array that has the same for each.
  template <class T>
  std::span<const T> part_of_head(const h5::Extent& extent, int64_t kv_head) const {
    const size_t n = extent.n_bytes / sizeof(T) / static_cast<size_t>(layout.context.model.n_kv_heads);
    return {reinterpret_cast<const T*>(file.at(extent.offset, extent.n_bytes)) + static_cast<size_t>(kv_head) * n, n};
  }

  void check_codebooks(const SketchView& view, int64_t kv_head) const {
    const auto dim = static_cast<size_t>(layout.context.model.head_dim);
    std::vector<char> seen(dim, 0);
    for (const int32_t c : view.dims) {
      if (c == -1) continue;
      if (c < 0 || static_cast<size_t>(c) >= dim || seen[static_cast<size_t>(c)]) {
        fail("{}: head {}: expected each of {} dimensions in one group of the sketches, found {}", where, kv_head, dim,
             c);
      }
      seen[static_cast<size_t>(c)] = 1;
    }
    if (std::find(seen.begin(), seen.end(), 0) != seen.end()) {
      fail("{}: head {}: a dimension is in no group of the sketches", where, kv_head);
    }
    const auto wrong = [](float x) { return !(x >= 0 && x <= std::numeric_limits<float>::max()); };
    if (wrong(view.error) || std::any_of(view.steps.begin(), view.steps.end(), wrong)) {
      fail("{}: head {}: a step or the error of the sketches is negative or not finite", where, kv_head);
    }
  }

  SketchView sketches(int64_t kv_head) const {
    if (!layout.options.sketches()) return {};
    const auto codes = part_of_head<uint8_t>(extents.sketches, kv_head);
    const auto scales = part_of_head<uint16_t>(extents.sketch_scales, kv_head);
    constexpr uint16_t kHalfInfinity = 0x7c00;  // negative numbers and NaN are larger as integers
    if (std::any_of(scales.begin(), scales.end(), [](uint16_t half) { return half >= kHalfInfinity; })) {
      fail("{}: head {}: a sketch's scale is negative or not finite", where, kv_head);
    }
    if (layout.options.sign_bits > 0) return layout.signs.view(codes.data(), scales.data());
    const SketchView view{layout.options.sketch_group,
                          part_of_head<int32_t>(extents.sketch_dims, kv_head),
                          part_of_head<int8_t>(extents.sketch_entries, kv_head),
                          part_of_head<float>(extents.sketch_steps, kv_head),
                          part_of_head<float>(extents.sketch_error, kv_head)[0],
                          codes.data(),
                          scales.data()};
    check_codebooks(view, kv_head);
    return view;
  }

  LevelView level(size_t i, int64_t kv_head) const {
    const LevelExtents& level = extents.levels[i];
    const int64_t n = ints(level.n_clusters, kv_head, 1)[0];
    if (n < 1 || n > level.max_clusters) {
      fail("{}: head {}: expected 1 to {} clusters in level {}, found {}", where, kv_head, level.max_clusters, i, n);
    }
    const int64_t first_bound = kv_head * (level.max_clusters + 1);
    const bool is_leaf = i + 1 == extents.levels.size();
    const DType dtype = layout.centroid_dtype();
    return {rows(level.centroids, dtype, level.max_clusters, kv_head, n),
            rows(level.value_means, dtype, level.max_clusters, kv_head, n),
            ints(level.first_row, first_bound, n + 1),
            is_leaf ? std::span<const int32_t>() : ints(level.first_child, first_bound, n + 1),
            scales(level.centroid_scales, "a centroid", level.max_clusters, kv_head, n),
            scales(level.value_scales, "a value mean", level.max_clusters, kv_head, n)};
  }

  void check_levels(const HeadView& head, int64_t kv_head) const {
    for (size_t i = 0; i < head.levels.size(); ++i) {
      if (!ascends(head.levels[i].first_row, head.n_sinks, head.n_tokens() - head.n_window)) {
        fail("{}: head {}: the rows of level {} do not cover the clustered tokens in order", where, kv_head, i);
      }
    }
    for (size_t i = 0; i + 1 < head.levels.size(); ++i) {
      const LevelView& level = head.levels[i];
      const LevelView& next = head.levels[i + 1];
      bool nested = ascends(level.first_child, 0, next.n_clusters());
      for (size_t c = 0; nested && c < level.first_row.size(); ++c) {
        nested = next.first_row[static_cast<size_t>(level.first_child[c])] == level.first_row[c];
      }
      if (!nested) fail("{}: head {}: the children of level {} do not cover the next in order", where, kv_head, i);
    }
  }

  HeadView head(int64_t kv_head) const {
    const int64_t n = layout.context.n_tokens();
    HeadView head{rows(extents.keys, layout.kv_dtype(), n, kv_head, n),
                  rows(extents.values, layout.kv_dtype(), n, kv_head, n),
                  ints(extents.token_of_row, kv_head * n, n),
                  layout.options.n_sinks,
                  layout.options.n_window,
                  {},
                  sketches(kv_head),
                  scales(extents.key_scales, "a key", n, kv_head, n),
                  scales(extents.value_scales, "a value", n, kv_head, n)};
    const auto [low, high] = std::minmax_element(head.token_of_row.begin(), head.token_of_row.end());
    if (*low < 0 || *high >= n) fail("{}: head {}: token_of_row leaves the context of {} tokens", where, kv_head, n);
    for (size_t i = 0; i < extents.levels.size(); ++i) head.levels.push_back(level(i, kv_head));
    check_levels(head, kv_head);
    return head;
  }
};

}  // namespace

std::vector<HeadView> layer_heads(const std::string& path, const MappedFile& mapped, const IndexLayout& layout,
                                  int layer) {
  const MappedLayer source{mapped, layout, layout.layers.at(static_cast<size_t>(layer)),
                           path + ": " + layer_name(layer)};
  std::vector<HeadView> heads;
  for (int kv_head = 0; kv_head < layout.context.model.n_kv_heads; ++kv_head) heads.push_back(source.head(kv_head));
  return heads;
}

}  // namespace squeeze
