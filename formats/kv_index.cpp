// Writing an index layer by layer, and reading one.
#include "formats/kv_index.hpp"

#include <algorithm>
#include <cstring>

#include "formats/child_trial.hpp"
#include "formats/kv_context.hpp"
#include "formats/kv_index_calibration.hpp"
#include "formats/kv_index_layout.hpp"
#include "lib/core/error.hpp"
#include "lib/core/parallel.hpp"
#include "lib/index/sketch.hpp"

namespace squeeze {
namespace {

void check_same_options(const std::string& path, const IndexLayout& found, DType dtype, const IndexOptions& expected) {
  const IndexOptions& options = found.options;
  const auto same_count = [](const ClusterCount& a, const ClusterCount& b) {
    return a.share == b.share && a.count == b.count;
  };
  const char* what = found.dtype != dtype                                        ? "element type"
                     : options.n_sinks != expected.n_sinks                       ? "number of sinks"
                     : options.n_window != expected.n_window                     ? "window"
                     : options.metric != expected.metric                         ? "metric"
                     : options.iterations != expected.iterations                 ? "number of iterations"
                     : options.seed != expected.seed                             ? "seed"
                     : options.segment != expected.segment                       ? "segment"
                     : options.sketch_group != expected.sketch_group             ? "size of sketches"
                     : options.sign_bits > 0                                     ? "kind of sketches"
                     : options.quantise_centroids != expected.quantise_centroids ? "type of centroids"
                     : options.quantise_kv != expected.quantise_kv               ? "type of keys and values"
                     : !std::equal(options.levels.begin(), options.levels.end(), expected.levels.begin(),
                                   expected.levels.end(), same_count)
                         ? "number of clusters"
                         : nullptr;
  if (what) fail("{}: was begun with another {}; run it as then, or without --resume", path, what);
}

TensorView layer_queries(const std::string& path, const MappedFile& mapped, const IndexLayout& layout, int layer) {
  if (layout.query_positions.empty()) fail("{}: holds no calibration queries", path);
  const h5::Extent& extent = layout.layers.at(static_cast<size_t>(layer)).queries;
  return {mapped.at(extent.offset, extent.n_bytes), layout.dtype, layout.queries_shape()};
}

// One array of [n_kv_heads, padded rows], in memory, its unused bytes zero.
class Padded {
 public:
  Padded(const h5::Extent& extent, size_t n_heads) : bytes_(extent.n_bytes, 0), head_bytes_(extent.n_bytes / n_heads) {}

  void set(size_t kv_head, const void* data, size_t n_bytes) {
    if (n_bytes > 0) std::memcpy(bytes_.data() + kv_head * head_bytes_, data, n_bytes);
  }
  template <class T>
  void set(size_t kv_head, const std::vector<T>& values) {
    set(kv_head, values.data(), values.size() * sizeof(T));
  }
  void write(PartialFile& file, const h5::Extent& extent) const {
    if (extent.n_bytes > 0) file.write(extent.offset, bytes_.data(), bytes_.size());
  }

 private:
  std::vector<char> bytes_;
  size_t head_bytes_;
};

void check_level(const std::string& where, const Level& level, const LevelExtents& room, const Shape& head_shape,
                 DType dtype, bool is_leaf) {
  const auto n = static_cast<int64_t>(level.first_row.size()) - 1;
  const Shape expected{n, head_shape[1]};
  const bool fits = n >= 1 && n <= room.max_clusters && level.centroids.shape() == expected &&
                    level.value_means.shape() == expected && level.centroids.dtype() == dtype &&
                    level.value_means.dtype() == dtype &&
                    level.centroid_scales.size() == (dtype == DType::i8 ? static_cast<size_t>(n) : 0) &&
                    level.value_scales.size() == level.centroid_scales.size() &&
                    level.first_child.size() == (is_leaf ? 0 : level.first_row.size());
  if (!fits) {
    fail("{}: {} clusters with centroids {} {} do not fit the {} {} that were reserved", where, n,
         name_of(level.centroids.dtype()), level.centroids.shape().str(), room.max_clusters, name_of(dtype));
  }
}

}  // namespace

struct KvIndexWriter::Impl {
  PartialFile file;
  IndexLayout layout;
  CalibrationExtents calibration;
  h5::Extent complete;
  MappedFile mapped;
  bool calibrated = false;

  void check(const IndexLayer& index) const {
    const ModelInfo& model = layout.context.model;
    const int64_t n_tokens = layout.context.n_tokens();
    const Shape cache{model.n_kv_heads, n_tokens, model.head_dim};
    const size_t n_scales = layout.options.quantise_kv ? static_cast<size_t>(model.n_kv_heads * n_tokens) : 0;
    const bool fits = index.keys.shape() == cache && index.values.shape() == cache &&
                      index.keys.dtype() == layout.kv_dtype() && index.values.dtype() == layout.kv_dtype() &&
                      index.key_scales.size() == n_scales && index.value_scales.size() == n_scales &&
                      index.heads.size() == static_cast<size_t>(model.n_kv_heads) &&
                      index.n_sinks == layout.options.n_sinks && index.n_window == layout.options.n_window;
    if (!fits) {
      fail("{}: expected a layer of {} {}, found {} {}", file.partial_path(), name_of(layout.kv_dtype()), cache.str(),
           name_of(index.keys.dtype()), index.keys.shape().str());
    }
    for (const HeadIndex& head : index.heads) {
      if (head.token_of_row.size() != layout.context.tokens.size() ||
          head.levels.size() != layout.options.levels.size()) {
        fail("{}: a head has {} rows and {} levels", file.partial_path(), head.token_of_row.size(), head.levels.size());
      }
      check_sketches(head.sketches);
    }
  }

  void check_sketches(const Sketches& sketches) const {
    const int group = layout.options.sketch_group;
    const int64_t dim = layout.context.model.head_dim;
    const size_t n = group > 0 ? static_cast<size_t>(layout.n_clustered()) : 0;
    const size_t n_dims = group > 0 ? static_cast<size_t>(sketch_groups(group, dim) * group) : 0;
    const size_t n_bytes = group > 0 ? n * static_cast<size_t>(sketch_code_bytes(group, dim)) : 0;
    const SketchCodebooks& codebooks = sketches.codebooks;
    const bool fits = codebooks.group_dim == group && codebooks.dims.size() == n_dims &&
                      codebooks.steps.size() == n_dims && codebooks.entries.size() == n_dims * kSketchEntries &&
                      sketches.codes.size() == n_bytes && sketches.scales.size() == n;
    if (fits) return;
    fail("{}: a head has {} bytes of sketches, {} scales and groups of {} for {} clustered keys and groups of {}",
         file.partial_path(), sketches.codes.size(), sketches.scales.size(), codebooks.group_dim, layout.n_clustered(),
         group);
  }

  void check_queries(TensorView queries) const {
    const bool none = layout.query_positions.empty();
    if (none ? queries.data() == nullptr : queries.shape() == layout.queries_shape() && queries.dtype() == layout.dtype)
      return;
    fail("{}: expected queries {} {}, found {} {}", file.partial_path(), name_of(layout.dtype),
         layout.queries_shape().str(), name_of(queries.dtype()), queries.shape().str());
  }

  void write_sketches(const IndexLayerExtents& extents, const IndexLayer& index) {
    const size_t n_heads = index.heads.size();
    Padded codes(extents.sketches, n_heads), scales(extents.sketch_scales, n_heads);
    Padded dims(extents.sketch_dims, n_heads), entries(extents.sketch_entries, n_heads);
    Padded steps(extents.sketch_steps, n_heads), error(extents.sketch_error, n_heads);
    for (size_t head = 0; head < n_heads; ++head) {
      const Sketches& sketches = index.heads[head].sketches;
      codes.set(head, sketches.codes);
      scales.set(head, sketches.scales);
      dims.set(head, sketches.codebooks.dims);
      entries.set(head, sketches.codebooks.entries);
      steps.set(head, sketches.codebooks.steps);
      error.set(head, &sketches.codebooks.error, extents.sketch_error.n_bytes / n_heads);
    }
    codes.write(file, extents.sketches);
    scales.write(file, extents.sketch_scales);
    dims.write(file, extents.sketch_dims);
    entries.write(file, extents.sketch_entries);
    steps.write(file, extents.sketch_steps);
    error.write(file, extents.sketch_error);
  }

  void write_level(size_t i, const LevelExtents& room, const IndexLayer& index) {
    const size_t n_heads = index.heads.size();
    const bool is_leaf = i + 1 == layout.options.levels.size();
    const Shape row{1, layout.context.model.head_dim};
    Padded centroids(room.centroids, n_heads), value_means(room.value_means, n_heads),
        n_clusters(room.n_clusters, n_heads);
    Padded first_row(room.first_row, n_heads), first_child(room.first_child, n_heads);
    Padded centroid_scales(room.centroid_scales, n_heads), value_scales(room.value_scales, n_heads);
    for (size_t head = 0; head < n_heads; ++head) {
      const Level& level = index.heads[head].levels[i];
      check_level(file.partial_path(), level, room, row, layout.centroid_dtype(), is_leaf);
      centroids.set(head, level.centroids.data(), level.centroids.n_bytes());
      value_means.set(head, level.value_means.data(), level.value_means.n_bytes());
      centroid_scales.set(head, level.centroid_scales);
      value_scales.set(head, level.value_scales);
      first_row.set(head, level.first_row);
      first_child.set(head, level.first_child);
      n_clusters.set(head, std::vector<int32_t>{static_cast<int32_t>(level.first_row.size() - 1)});
    }
    centroid_scales.write(file, room.centroid_scales);
    value_scales.write(file, room.value_scales);
    centroids.write(file, room.centroids);
    value_means.write(file, room.value_means);
    first_row.write(file, room.first_row);
    first_child.write(file, room.first_child);
    n_clusters.write(file, room.n_clusters);
  }
};

KvIndexWriter::KvIndexWriter(const std::string& path, const Context& context, DType dtype, const IndexOptions& options,
                             WriteMode mode, const std::vector<int32_t>& query_positions) {
  check_context(path, context);
  check_index_options(path, options, context.n_tokens());
  check_calibration_positions(path, query_positions);
  PartialFile file(path, context.model.n_layers, mode, [&](const std::string& partial) {
    create_index(partial, context, dtype, options, query_positions);
  });
  const h5::Reader reader(file.partial_path());
  IndexLayout layout = read_index_layout(reader);
  check_same_context(file.partial_path(), layout.context, context);
  check_same_options(file.partial_path(), layout, dtype, options);
  if (layout.query_positions != query_positions) {
    fail("{}: was begun with other calibration queries; run it as then, or without --resume", file.partial_path());
  }
  MappedFile mapped(file.partial_path());
  const CalibrationShape shape = calibration_shape(layout);
  impl_ = std::make_unique<Impl>(Impl{std::move(file), std::move(layout), find_calibration(reader, shape),
                                      complete_extent(reader), std::move(mapped)});
}

KvIndexWriter::~KvIndexWriter() = default;

int KvIndexWriter::n_layers_done() const { return impl_->file.n_steps_done(); }

Tensor KvIndexWriter::hidden() const { return impl_->file.state(); }

void KvIndexWriter::write_layer(int layer, const IndexLayer& index, TensorView hidden_after, TensorView queries) {
  PartialFile& file = impl_->file;
  file.begin_step(layer);
  impl_->check(index);
  impl_->check_queries(queries);
  const IndexLayerExtents& extents = impl_->layout.layers[static_cast<size_t>(layer)];
  file.write(extents.keys.offset, index.keys.data(), index.keys.n_bytes());
  file.write(extents.values.offset, index.values.data(), index.values.n_bytes());
  if (impl_->layout.options.quantise_kv) {
    file.write(extents.key_scales.offset, index.key_scales.data(), extents.key_scales.n_bytes);
    file.write(extents.value_scales.offset, index.value_scales.data(), extents.value_scales.n_bytes);
  }
  if (extents.queries.n_bytes > 0) file.write(extents.queries.offset, queries.data(), queries.n_bytes());
  Padded token_of_row(extents.token_of_row, index.heads.size());
  for (size_t head = 0; head < index.heads.size(); ++head) token_of_row.set(head, index.heads[head].token_of_row);
  token_of_row.write(file, extents.token_of_row);
  impl_->write_sketches(extents, index);
  for (size_t level = 0; level < extents.levels.size(); ++level)
    impl_->write_level(level, extents.levels[level], index);
  file.end_step(layer, hidden_after);
}

std::vector<HeadView> KvIndexWriter::layer(int layer) const {
  if (layer < 0 || layer >= n_layers_done())
    fail("{}: layer {} was not written yet", impl_->file.partial_path(), layer);
  return layer_heads(impl_->file.partial_path(), impl_->mapped, impl_->layout, layer);
}

TensorView KvIndexWriter::queries(int layer) const {
  return layer_queries(impl_->file.partial_path(), impl_->mapped, impl_->layout, layer);
}

void KvIndexWriter::write_calibration(const Calibration& calibration) {
  save_calibration(impl_->file, impl_->calibration, calibration_shape(impl_->layout), calibration);
  impl_->calibrated = true;
}

void KvIndexWriter::finish() {
  if (!impl_->calibrated) fail("{}: the calibration was not written", impl_->file.partial_path());
  finish_complete(impl_->file, impl_->complete);
}

struct KvIndex::Impl {
  std::string path;
  int64_t file_bytes = 0;
  IndexLayout layout;
  Calibration calibration;
  ContextView view;
  MappedFile mapped;

  explicit Impl(const std::string& name) : path(name), mapped(name) {
    try_in_child(name, [&] { read(); });
    read();
    parallel_for(static_cast<int64_t>(view.layers.size()), [&](int64_t layer) {
      view.layers[static_cast<size_t>(layer)] = layer_heads(path, mapped, layout, static_cast<int>(layer));
    });
  }

  // All that HDF5 has to tell.
  void read() {
    const h5::Reader file(path);
    check_complete(file);
    file_bytes = file.file_bytes();
    layout = read_index_layout(file);
    calibration = load_calibration(file, calibration_shape(layout));
    view.model = layout.context.model;
    view.float_type = layout.dtype;
    view.layers.resize(layout.layers.size());
  }
};

KvIndex::KvIndex(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
KvIndex::~KvIndex() = default;
KvIndex::KvIndex(KvIndex&&) noexcept = default;

const std::string& KvIndex::path() const { return impl_->path; }
const Context& KvIndex::context() const { return impl_->layout.context; }
DType KvIndex::dtype() const { return impl_->layout.dtype; }
DType KvIndex::kv_dtype() const { return impl_->layout.kv_dtype(); }
const IndexOptions& KvIndex::options() const { return impl_->layout.options; }
const Calibration& KvIndex::calibration() const { return impl_->calibration; }
ContextView KvIndex::view() const { return impl_->view; }
std::span<const int32_t> KvIndex::query_positions() const { return impl_->layout.query_positions; }
TensorView KvIndex::queries(int layer) const { return layer_queries(impl_->path, impl_->mapped, impl_->layout, layer); }
int64_t KvIndex::file_bytes() const { return impl_->file_bytes; }

int64_t KvIndex::kv_bytes() const {
  const HeadView& head = impl_->view.layers[0][0];  // all are alike
  return context().model.n_layers * context().model.n_kv_heads * head.n_tokens() * squeeze::kv_bytes(head);
}

}  // namespace squeeze
