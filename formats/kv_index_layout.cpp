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

void save_options(h5::Skeleton& file, DType dtype, const IndexOptions& options) {
  file.attribute("n_sinks", int64_t{options.n_sinks});
  file.attribute("n_window", int64_t{options.n_window});
  file.attribute("metric", name_of(options.metric));
  file.attribute("iterations", int64_t{options.iterations});
  file.attribute("seed", options.seed);
  file.attribute("segment", options.segment);
  file.attribute("centroid_type", options.quantise_centroids ? "i8" : "keys");
  file.attribute("kv_type", options.quantise_kv ? "i8" : "keys");
  if (options.quantise_kv) file.attribute("float_type", name_of(dtype));
  file.attribute("sketch_group", int64_t{options.sketch_group});
  file.attribute("n_levels", static_cast<int64_t>(options.levels.size()));
  for (size_t i = 0; i < options.levels.size(); ++i) {
    file.attribute(fmt::format("level_{}_share", i), options.levels[i].share);
    file.attribute(fmt::format("level_{}_count", i), options.levels[i].count);
  }
}

// What the attribute says of rows: i8, or (also without it) the type of the keys.
bool rows_are_i8(const h5::Reader& file, const std::string& attribute) {
  if (!file.has_attribute(attribute)) return false;
  const std::string type = file.text_attribute(attribute);
  if (type != "i8" && type != "keys") fail("{}: expected {} i8 or keys, found {}", file.path(), attribute, type);
  return type == "i8";
}

// FLOAT: the type of the keys, or what their integers stand for.
DType load_float_type(const h5::Reader& file, const IndexOptions& options) {
  if (!options.quantise_kv) return file.float_type(layer_name(0) + "/keys");
  const std::string name = file.text_attribute("float_type");
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  fail("{}: expected float_type f32, f16 or bf16, found {}", file.path(), name);
}

void load_sketch_options(const h5::Reader& file, IndexOptions& options) {
  if (file.has_attribute("sketch_group")) {
    options.sketch_group = read_count(file, "sketch_group", 0, 8);
    if (const int group = options.sketch_group; group != 0 && group != 2 && group != 4 && group != 8) {
      fail("{}: expected sketch_group 0, 2, 4 or 8, found {}", file.path(), group);
    }
    return;
  }
  options.sign_bits = file.has_attribute("sketch_bits") ? read_count(file, "sketch_bits", 0, 2) : 0;
  if (options.sign_bits > 0 && file.unsigned_integer("rotation_seed") != kRotationSeed) {
    fail("{}: expected sketches with rotation {}, found {}; build the index again", file.path(), kRotationSeed,
         file.unsigned_integer("rotation_seed"));
  }
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
  options.quantise_centroids = rows_are_i8(file, "centroid_type");
  options.quantise_kv = rows_are_i8(file, "kv_type");
  load_sketch_options(file, options);
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
  const IndexOptions& options = layout.options;
  return {model.n_kv_heads, layout.n_clustered(),
          options.sign_bits > 0 ? sign_code_bytes(options.sign_bits, model.head_dim)
                                : sketch_code_bytes(options.sketch_group, model.head_dim)};
}

struct CodebookShapes {
  Shape dims, entries, error;
};

CodebookShapes codebook_shapes(const IndexLayout& layout) {
  const ModelInfo& model = layout.context.model;
  const int64_t group = layout.options.sketch_group, n = sketch_groups(layout.options.sketch_group, model.head_dim);
  return {{model.n_kv_heads, n, group}, {model.n_kv_heads, n, kSketchEntries, group}, {model.n_kv_heads}};
}

void create_sketches(h5::Skeleton& file, const std::string& layer, const IndexLayout& layout) {
  const CodebookShapes shapes = codebook_shapes(layout);
  file.dataset(layer + "/sketches", h5::Type::u8, sketches_shape(layout));
  file.dataset(layer + "/sketch_scales", h5::Type::f16, sketch_scales_shape(layout));
  file.dataset(layer + "/sketch_dims", h5::Type::i32, shapes.dims);
  file.dataset(layer + "/sketch_entries", h5::Type::i8, shapes.entries);
  file.dataset(layer + "/sketch_steps", h5::Type::f32, shapes.dims);
  file.dataset(layer + "/sketch_error", h5::Type::f32, shapes.error);
}

void find_sketches(const h5::Reader& file, const std::string& layer, const IndexLayout& layout,
                   IndexLayerExtents& out) {
  out.sketches = file.extent(layer + "/sketches", h5::Type::u8, sketches_shape(layout));
  out.sketch_scales = file.extent(layer + "/sketch_scales", h5::Type::f16, sketch_scales_shape(layout));
  if (layout.options.sketch_group == 0) return;
  const CodebookShapes shapes = codebook_shapes(layout);
  out.sketch_dims = file.extent(layer + "/sketch_dims", h5::Type::i32, shapes.dims);
  out.sketch_entries = file.extent(layer + "/sketch_entries", h5::Type::i8, shapes.entries);
  out.sketch_steps = file.extent(layer + "/sketch_steps", h5::Type::f32, shapes.dims);
  out.sketch_error = file.extent(layer + "/sketch_error", h5::Type::f32, shapes.error);
}

}  // namespace

CalibrationShape calibration_shape(const IndexLayout& layout) {
  const ModelInfo& model = layout.context.model;
  return {layout.options.levels.size(), layout.options.sketches(), model.n_layers, model.n_kv_heads};
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
  save_options(file, dtype, options);
  const IndexLayout layout{context, dtype, options, query_positions, {}};
  create_calibration(file, calibration_shape(layout));
  if (!query_positions.empty()) file.dataset("/query_positions", query_positions);
  const Shape queries{model.n_query_heads, static_cast<int64_t>(query_positions.size()), model.head_dim};
  const h5::Type kv_type = h5::type_of(layout.kv_dtype());
  for (int layer = 0; layer < model.n_layers; ++layer) {
    file.dataset(layer_name(layer) + "/keys", kv_type, cache);
    file.dataset(layer_name(layer) + "/values", kv_type, cache);
    if (options.quantise_kv) {
      file.dataset(layer_name(layer) + "/key_scales", h5::Type::f32, {model.n_kv_heads, context.n_tokens()});
      file.dataset(layer_name(layer) + "/value_scales", h5::Type::f32, {model.n_kv_heads, context.n_tokens()});
    }
    if (!query_positions.empty()) file.dataset(layer_name(layer) + "/queries", type, queries);
    file.dataset(layer_name(layer) + "/token_of_row", h5::Type::i32, {model.n_kv_heads, context.n_tokens()});
    if (options.sketch_group > 0) create_sketches(file, layer_name(layer), layout);
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
  layout.dtype = load_float_type(file, layout.options);
  if (layout.options.sign_bits > 0) layout.signs = sign_sketches(layout.options.sign_bits, model.head_dim);
  const h5::Type type = h5::type_of(layout.dtype), kv_type = h5::type_of(layout.kv_dtype());
  const Shape cache{model.n_kv_heads, n_tokens, model.head_dim}, per_token{model.n_kv_heads, n_tokens};
  for (int layer = 0; layer < model.n_layers; ++layer) {
    IndexLayerExtents& extents = layout.layers.emplace_back();
    extents.keys = file.extent(layer_name(layer) + "/keys", kv_type, cache);
    extents.values = file.extent(layer_name(layer) + "/values", kv_type, cache);
    extents.token_of_row = file.extent(layer_name(layer) + "/token_of_row", h5::Type::i32, per_token);
    if (layout.options.quantise_kv) {
      extents.key_scales = file.extent(layer_name(layer) + "/key_scales", h5::Type::f32, per_token);
      extents.value_scales = file.extent(layer_name(layer) + "/value_scales", h5::Type::f32, per_token);
    }
    if (layout.options.sketches()) find_sketches(file, layer_name(layer), layout, extents);
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

}  // namespace squeeze
