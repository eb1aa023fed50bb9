// The tree of a KV dump.
#include "formats/kv_dump_layout.hpp"

#include <limits>

#include "formats/kv_context.hpp"
#include "lib/core/error.hpp"
#include "lib/core/utf8.hpp"

namespace squeeze {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kCacheLine = 64;

struct LayerShapes {
  Shape cache;  // keys and values
  Shape queries;
};

LayerShapes shapes_of(const ModelInfo& model, int64_t n_tokens, int64_t n_queries) {
  return {{model.n_kv_heads, n_tokens, model.head_dim}, {model.n_query_heads, n_queries, model.head_dim}};
}

std::string probe_name(size_t probe) { return fmt::format("/probes/{:03}", probe); }

void create_layer(h5::Skeleton& file, const std::string& group, DType dtype, const LayerShapes& shapes) {
  file.dataset(group + "/keys", h5::type_of(dtype), shapes.cache);
  file.dataset(group + "/values", h5::type_of(dtype), shapes.cache);
  file.dataset(group + "/queries", h5::type_of(dtype), shapes.queries);
}

DumpArray find_array(const h5::Reader& file, const std::string& name, DType dtype, const Shape& shape) {
  DumpArray array{name, shape, file.find_extent(name, h5::type_of(dtype), shape)};
  if (!array.extent) (void)file.float_type(name);
  return array;
}

DumpLayerArrays find_layer(const h5::Reader& file, const std::string& group, DType dtype, const LayerShapes& shapes) {
  return {find_array(file, group + "/keys", dtype, shapes.cache),
          find_array(file, group + "/values", dtype, shapes.cache),
          find_array(file, group + "/queries", dtype, shapes.queries)};
}

void read_probes(const h5::Reader& file, DumpLayout& layout) {
  const ModelInfo& model = layout.context.model;
  if (!file.has_attribute("n_probes")) return;
  const int n_probes = read_count(file, "n_probes", 0, 1 << 20);
  for (size_t probe = 0; probe < static_cast<size_t>(n_probes); ++probe) {
    const std::string group = probe_name(probe);
    layout.spec.probes.push_back(file.read_i32(group + "/tokens", file.shape(group + "/tokens")));
    layout.spec.probe_texts.push_back(file.has(group + "/text") ? file.read_text(group + "/text") : "");
    const auto n_tokens = static_cast<int64_t>(layout.spec.probes.back().size());
    const LayerShapes shapes = shapes_of(model, n_tokens, n_tokens);
    std::vector<DumpLayerArrays>& arrays = layout.probes.emplace_back();
    for (int layer = 0; layer < model.n_layers; ++layer) {
      arrays.push_back(find_layer(file, group + layer_name(layer), layout.spec.dtype, shapes));
    }
  }
}

}  // namespace

void check_spec(const std::string& path, const Context& context, const DumpSpec& spec) {
  check_query_positions(path, spec.query_positions, context.n_tokens());
  if (spec.probe_texts.size() != spec.probes.size()) {
    fail("{}: {} probe texts for {} probes", path, spec.probe_texts.size(), spec.probes.size());
  }
  for (size_t probe = 0; probe < spec.probes.size(); ++probe) {
    if (spec.probes[probe].empty()) fail("{}: probe {} has no tokens", path, probe);
    for (const int32_t token : spec.probes[probe]) {
      if (token < 0) fail("{}: probe {} has a negative token id", path, probe);
    }
    if (const auto at = first_invalid_utf8(spec.probe_texts[probe])) {
      fail("{}: the text of probe {} is not UTF-8 at byte {}", path, probe, *at);
    }
  }
}

void create_dump(const std::string& path, const Context& context, const DumpSpec& spec) {
  const ModelInfo& model = context.model;
  const LayerShapes shapes = shapes_of(model, context.n_tokens(), static_cast<int64_t>(spec.query_positions.size()));
  const bool large = shapes.cache.n_elements() >= int64_t{1} << 18;
  h5::Skeleton file(path, large ? kPage : kCacheLine);
  save_context(file, kDumpFormat, context);
  file.attribute("n_probes", static_cast<int64_t>(spec.probes.size()));
  file.dataset("/query_positions", spec.query_positions);
  for (int layer = 0; layer < model.n_layers; ++layer) create_layer(file, layer_name(layer), spec.dtype, shapes);
  for (size_t probe = 0; probe < spec.probes.size(); ++probe) {
    const std::string group = probe_name(probe);
    const auto n_tokens = static_cast<int64_t>(spec.probes[probe].size());
    file.dataset(group + "/tokens", spec.probes[probe]);
    if (!spec.probe_texts[probe].empty()) file.text(group + "/text", spec.probe_texts[probe]);
    for (int layer = 0; layer < model.n_layers; ++layer) {
      create_layer(file, group + layer_name(layer), spec.dtype, shapes_of(model, n_tokens, n_tokens));
    }
  }
  file.close();
}

DumpLayout read_dump_layout(const h5::Reader& file) {
  DumpLayout layout;
  layout.context = load_context(file, kDumpFormat);
  layout.spec.query_positions = file.read_i32("/query_positions", file.shape("/query_positions"));
  layout.spec.dtype = file.float_type(layer_name(0) + "/keys");
  const ModelInfo& model = layout.context.model;
  const LayerShapes shapes =
      shapes_of(model, layout.context.n_tokens(), static_cast<int64_t>(layout.spec.query_positions.size()));
  for (int layer = 0; layer < model.n_layers; ++layer) {
    layout.layers.push_back(find_layer(file, layer_name(layer), layout.spec.dtype, shapes));
  }
  read_probes(file, layout);
  check_spec(file.path(), layout.context, layout.spec);
  return layout;
}

}  // namespace squeeze
