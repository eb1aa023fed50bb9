// The tree of an index.
#include "formats/kv_index_layout.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "formats/kv_context.hpp"
#include "formats/kv_index_calibration.hpp"
#include "lib/core/error.hpp"
#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kCacheLine = 64;
constexpr int kMaxLevels = 8;
constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

std::string level_name(int layer, size_t level) { return fmt::format("{}/levels/{}", layer_name(layer), level); }

const char* name_of(Metric metric) { return metric == Metric::cosine ? "cosine" : "l2"; }

void save_options(h5::Skeleton& file, const IndexOptions& options) {
  file.attribute("n_sinks", int64_t{options.n_sinks});
  file.attribute("n_window", int64_t{options.n_window});
  file.attribute("metric", name_of(options.metric));
  file.attribute("iterations", int64_t{options.iterations});
  file.attribute("seed", options.seed);
  file.attribute("segment", options.segment);
  file.attribute("centroid_type", options.quantise_centroids ? "i8" : "keys");
  file.attribute("sketch_bits", int64_t{options.sketch_bits});
  file.attribute("rotation_seed", kRotationSeed);
  file.attribute("n_levels", static_cast<int64_t>(options.levels.size()));
  for (size_t i = 0; i < options.levels.size(); ++i) {
    file.attribute(fmt::format("level_{}_share", i), options.levels[i].share);
    file.attribute(fmt::format("level_{}_count", i), options.levels[i].count);
  }
}

bool centroids_are_i8(const h5::Reader& file) {
  const std::string type = file.text_attribute("centroid_type");
  if (type != "i8" && type != "keys") fail("{}: expected centroid_type i8 or keys, found {}", file.path(), type);
  return type == "i8";
}

IndexOptions load_options(const h5::Reader& file) {
  IndexOptions options;
  options.n_sinks = read_count(file, "n_sinks", 0, kMaxInt32);
  options.n_window = read_count(file, "n_window", 0, kMaxInt32);
  const std::string metric = file.text_attribute("metric");
  if (metric != "cosine" && metric != "l2") fail("{}: expected metric cosine or l2, found {}", file.path(), metric);
  options.metric = metric == "cosine" ? Metric::cosine : Metric::l2;
  options.iterations = read_count(file, "iterations", 0, kMaxInt32);
  options.seed = file.unsigned_integer("seed");
  options.segment = file.has_attribute("segment") ? read_count(file, "segment", 0, kMaxInt32) : 0;
  options.quantise_centroids = file.has_attribute("centroid_type") && centroids_are_i8(file);
  options.sketch_bits = file.has_attribute("sketch_bits") ? read_count(file, "sketch_bits", 0, 2) : 0;
  if (options.sketch_bits > 0 && file.unsigned_integer("rotation_seed") != kRotationSeed) {
    fail("{}: expected sketches with rotation {}, found {}; build the index again", file.path(), kRotationSeed,
         file.unsigned_integer("rotation_seed"));
  }
  const int n_levels = read_count(file, "n_levels", 1, kMaxLevels);
  for (int i = 0; i < n_levels; ++i) {
    options.levels.push_back({file.real(fmt::format("level_{}_share", i)),
                              read_count(file, fmt::format("level_{}_count", i), 0, kMaxInt32)});
  }
  return options;
}

std::vector<int32_t> load_query_positions(const h5::Reader& file) {
  if (!file.has("/query_positions")) return {};
  return file.read_i32("/query_positions", file.shape("/query_positions"));
}

// What a level's arrays are called and hold, for creating and finding them.
struct LevelShapes {
  int64_t max_clusters;
  Shape centroids, scales, bounds, counts;
};

LevelShapes level_shapes(const ModelInfo& model, const IndexOptions& options, size_t level, int64_t n_tokens) {
  const int64_t n = options.levels[level].of(n_tokens);
  return {
      n, {model.n_kv_heads, n, model.head_dim}, {model.n_kv_heads, n}, {model.n_kv_heads, n + 1}, {model.n_kv_heads}};
}

LevelExtents find_level(const h5::Reader& file, const std::string& group, h5::Type type, const LevelShapes& shapes,
                        bool is_leaf) {
  const bool scaled = type == h5::Type::i8;
  return {shapes.max_clusters,
          file.extent(group + "/centroids", type, shapes.centroids),
          file.extent(group + "/value_means", type, shapes.centroids),
          file.extent(group + "/first_row", h5::Type::i32, shapes.bounds),
          is_leaf ? h5::Extent{} : file.extent(group + "/first_child", h5::Type::i32, shapes.bounds),
          file.extent(group + "/n_clusters", h5::Type::i32, shapes.counts),
          scaled ? file.extent(group + "/centroid_scales", h5::Type::f32, shapes.scales) : h5::Extent{},
          scaled ? file.extent(group + "/value_scales", h5::Type::f32, shapes.scales) : h5::Extent{}};
}

Shape sketch_scales_shape(const IndexLayout& layout) { return {layout.context.model.n_kv_heads, layout.n_clustered()}; }

Shape sketches_shape(const IndexLayout& layout) {
  const ModelInfo& model = layout.context.model;
  return {model.n_kv_heads, layout.n_clustered(), sketch_code_bytes(layout.options.sketch_bits, model.head_dim)};
}

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
  std::span<const float> scales(const h5::Extent& extent, int64_t per_head, int64_t kv_head, int64_t n) const {
    if (extent.n_bytes == 0) return {};
    const auto* data = reinterpret_cast<const float*>(file.at(extent.offset, extent.n_bytes)) + kv_head * per_head;
    const std::span<const float> found(data, static_cast<size_t>(n));
    for (const float scale : found) {
      if (!(scale >= 0 && scale <= std::numeric_limits<float>::max())) {
        fail("{}: head {}: a centroid's scale is {}, expected a finite number", where, kv_head, scale);
      }
    }
    return found;
  }

  SketchView sketches(int64_t kv_head) const {
    const int bits = layout.options.sketch_bits;
    if (bits == 0) return {};
    const int64_t n = layout.n_clustered();
    const auto* codes = reinterpret_cast<const uint8_t*>(file.at(extents.sketches.offset, extents.sketches.n_bytes));
    const auto* scale =
        reinterpret_cast<const uint16_t*>(file.at(extents.sketch_scales.offset, extents.sketch_scales.n_bytes)) +
        kv_head * n;
    constexpr uint16_t kHalfInfinity = 0x7c00;  // negative numbers and NaN are larger as integers
    if (std::any_of(scale, scale + n, [](uint16_t half) { return half >= kHalfInfinity; })) {
      fail("{}: head {}: a sketch's scale is negative or not finite", where, kv_head);
    }
    return {bits, codes + kv_head * n * sketch_code_bytes(bits, layout.context.model.head_dim), scale, layout.rotation};
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
            scales(level.centroid_scales, level.max_clusters, kv_head, n),
            scales(level.value_scales, level.max_clusters, kv_head, n)};
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
    HeadView head{rows(extents.keys, layout.dtype, n, kv_head, n),
                  rows(extents.values, layout.dtype, n, kv_head, n),
                  ints(extents.token_of_row, kv_head * n, n),
                  layout.options.n_sinks,
                  layout.options.n_window,
                  {},
                  sketches(kv_head)};
    const auto [low, high] = std::minmax_element(head.token_of_row.begin(), head.token_of_row.end());
    if (*low < 0 || *high >= n) fail("{}: head {}: token_of_row leaves the context of {} tokens", where, kv_head, n);
    for (size_t i = 0; i < extents.levels.size(); ++i) head.levels.push_back(level(i, kv_head));
    check_levels(head, kv_head);
    return head;
  }
};

}  // namespace

CalibrationShape calibration_shape(const IndexLayout& layout) {
  const ModelInfo& model = layout.context.model;
  return {layout.options.levels.size(), layout.options.sketch_bits > 0, model.n_layers, model.n_kv_heads};
}

void check_index_options(const std::string& path, const IndexOptions& options, int64_t n_tokens) {
  const int64_t n_clustered = n_tokens - options.n_sinks - options.n_window;
  if (options.n_sinks < 0 || options.n_window < 0 || n_clustered < 1) {
    fail("{}: {} sinks and a window of {} leave nothing of {} tokens to cluster", path, options.n_sinks,
         options.n_window, n_tokens);
  }
  if (options.levels.empty() || options.levels.size() > kMaxLevels) {
    fail("{}: expected 1 to {} levels, found {}", path, kMaxLevels, options.levels.size());
  }
  for (const ClusterCount& level : options.levels) {
    const bool sane = level.count > 0 || (level.share > 0 && level.share <= 1);
    if (!sane || level.count > n_clustered) {
      fail("{}: expected at most {} clusters in a level, found a count of {} or a share of {}", path, n_clustered,
           level.count, level.share);
    }
  }
}

void create_index(const std::string& path, const Context& context, DType dtype, const IndexOptions& options,
                  const std::vector<int32_t>& query_positions) {
  const ModelInfo& model = context.model;
  const h5::Type type = h5::type_of(dtype);
  const Shape cache{model.n_kv_heads, context.n_tokens(), model.head_dim};
  h5::Skeleton file(path, cache.n_elements() >= int64_t{1} << 18 ? kPage : kCacheLine);
  save_context(file, kIndexFormat, context);
  save_options(file, options);
  const IndexLayout layout{context, dtype, options, query_positions, {}};
  create_calibration(file, calibration_shape(layout));
  if (!query_positions.empty()) file.dataset("/query_positions", query_positions);
  const Shape queries{model.n_query_heads, static_cast<int64_t>(query_positions.size()), model.head_dim};
  for (int layer = 0; layer < model.n_layers; ++layer) {
    file.dataset(layer_name(layer) + "/keys", type, cache);
    file.dataset(layer_name(layer) + "/values", type, cache);
    if (!query_positions.empty()) file.dataset(layer_name(layer) + "/queries", type, queries);
    file.dataset(layer_name(layer) + "/token_of_row", h5::Type::i32, {model.n_kv_heads, context.n_tokens()});
    if (options.sketch_bits > 0) {
      file.dataset(layer_name(layer) + "/sketches", h5::Type::u8, sketches_shape(layout));
      file.dataset(layer_name(layer) + "/sketch_scales", h5::Type::f16, sketch_scales_shape(layout));
    }
    for (size_t level = 0; level < options.levels.size(); ++level) {
      const LevelShapes shapes = level_shapes(model, options, level, context.n_tokens());
      const std::string group = level_name(layer, level);
      const h5::Type centroid_type = h5::type_of(layout.centroid_dtype());
      file.dataset(group + "/centroids", centroid_type, shapes.centroids);
      file.dataset(group + "/value_means", centroid_type, shapes.centroids);
      if (options.quantise_centroids) {
        file.dataset(group + "/centroid_scales", h5::Type::f32, shapes.scales);
        file.dataset(group + "/value_scales", h5::Type::f32, shapes.scales);
      }
      file.dataset(group + "/first_row", h5::Type::i32, shapes.bounds);
      if (level + 1 < options.levels.size()) file.dataset(group + "/first_child", h5::Type::i32, shapes.bounds);
      file.dataset(group + "/n_clusters", h5::Type::i32, shapes.counts);
    }
  }
  file.close();
}

IndexLayout read_index_layout(const h5::Reader& file) {
  IndexLayout layout{load_context(file, kIndexFormat), {}, load_options(file), load_query_positions(file), {}};
  const ModelInfo& model = layout.context.model;
  const int64_t n_tokens = layout.context.n_tokens();
  check_index_options(file.path(), layout.options, n_tokens);
  check_calibration_positions(file.path(), layout.query_positions);
  layout.dtype = file.float_type(layer_name(0) + "/keys");
  if (layout.options.sketch_bits > 0) layout.rotation = random_rotation(model.head_dim, kRotationSeed);
  const h5::Type type = h5::type_of(layout.dtype);
  const Shape cache{model.n_kv_heads, n_tokens, model.head_dim};
  for (int layer = 0; layer < model.n_layers; ++layer) {
    IndexLayerExtents& extents = layout.layers.emplace_back(
        IndexLayerExtents{file.extent(layer_name(layer) + "/keys", type, cache),
                          file.extent(layer_name(layer) + "/values", type, cache),
                          file.extent(layer_name(layer) + "/token_of_row", h5::Type::i32, {model.n_kv_heads, n_tokens}),
                          {},
                          {},
                          {},
                          {}});
    if (layout.options.sketch_bits > 0) {
      extents.sketches = file.extent(layer_name(layer) + "/sketches", h5::Type::u8, sketches_shape(layout));
      extents.sketch_scales =
          file.extent(layer_name(layer) + "/sketch_scales", h5::Type::f16, sketch_scales_shape(layout));
    }
    if (!layout.query_positions.empty()) {
      extents.queries = file.extent(layer_name(layer) + "/queries", type, layout.queries_shape());
    }
    const size_t n_levels = layout.options.levels.size();
    for (size_t level = 0; level < n_levels; ++level) {
      extents.levels.push_back(find_level(file, level_name(layer, level), h5::type_of(layout.centroid_dtype()),
                                          level_shapes(model, layout.options, level, n_tokens), level + 1 == n_levels));
    }
  }
  return layout;
}

std::vector<HeadView> layer_heads(const std::string& path, const MappedFile& mapped, const IndexLayout& layout,
                                  int layer) {
  const MappedLayer source{mapped, layout, layout.layers.at(static_cast<size_t>(layer)),
                           path + ": " + layer_name(layer)};
  std::vector<HeadView> heads;
  for (int kv_head = 0; kv_head < layout.context.model.n_kv_heads; ++kv_head) heads.push_back(source.head(kv_head));
  return heads;
}

}  // namespace squeeze
