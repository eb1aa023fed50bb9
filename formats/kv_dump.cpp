// Writing a KV dump layer by layer, and reading one.
#include "formats/kv_dump.hpp"

#include <map>
#include <mutex>

#include "formats/child_trial.hpp"
#include "formats/kv_context.hpp"
#include "formats/kv_dump_layout.hpp"
#include "formats/mapped_file.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

void check_tensor(const std::string& path, const DumpArray& array, TensorView tensor, DType dtype) {
  if (tensor.dtype() != dtype || !(tensor.shape() == array.shape)) {
    fail("{}: {}: expected {} {}, found {} {}", path, array.name, name_of(dtype), array.shape.str(),
         name_of(tensor.dtype()), tensor.shape().str());
  }
}

void check_same_spec(const std::string& path, const DumpSpec& found, const DumpSpec& expected) {
  const char* what = found.dtype != expected.dtype                                                  ? "element type"
                     : found.query_positions != expected.query_positions                            ? "window"
                     : found.probes != expected.probes || found.probe_texts != expected.probe_texts ? "set of probes"
                                                                                                    : nullptr;
  if (what) fail("{}: was begun with another {}; run it as then, or without --resume", path, what);
}

}  // namespace

struct KvDumpWriter::Impl {
  PartialFile file;
  DumpLayout layout;
  h5::Extent complete;

  void write(const DumpArray& array, TensorView tensor) {
    check_tensor(file.partial_path(), array, tensor, layout.spec.dtype);
    if (!array.extent) fail("{}: {} is not as it was created; run without --resume", file.partial_path(), array.name);
    file.write(array.extent->offset, tensor.data(), tensor.n_bytes());
  }

  void write(const DumpLayerArrays& arrays, const KvLayer& layer) {
    write(arrays.keys, layer.keys);
    write(arrays.values, layer.values);
    write(arrays.queries, layer.queries);
  }
};

KvDumpWriter::KvDumpWriter(const std::string& path, const Context& context, const DumpSpec& spec, WriteMode mode) {
  check_context(path, context);
  check_spec(path, context, spec);
  PartialFile file(path, context.model.n_layers, mode,
                   [&](const std::string& partial) { create_dump(partial, context, spec); });
  const h5::Reader reader(file.partial_path());
  DumpLayout layout = read_dump_layout(reader);
  check_same_context(file.partial_path(), layout.context, context);
  check_same_spec(file.partial_path(), layout.spec, spec);
  impl_ = std::make_unique<Impl>(Impl{std::move(file), std::move(layout), complete_extent(reader)});
}

KvDumpWriter::~KvDumpWriter() = default;

int KvDumpWriter::n_layers_done() const { return impl_->file.n_steps_done(); }

Tensor KvDumpWriter::hidden() const { return impl_->file.state(); }

void KvDumpWriter::write_layer(int layer, const KvLayer& context, const std::vector<KvLayer>& probes,
                               TensorView hidden_after) {
  const DumpLayout& layout = impl_->layout;
  impl_->file.begin_step(layer);
  if (probes.size() != layout.probes.size()) {
    fail("{}: expected {} probes, found {}", impl_->file.partial_path(), layout.probes.size(), probes.size());
  }
  impl_->write(layout.layers.at(static_cast<size_t>(layer)), context);
  for (size_t i = 0; i < probes.size(); ++i) impl_->write(layout.probes[i][static_cast<size_t>(layer)], probes[i]);
  impl_->file.end_step(layer, hidden_after);
}

void KvDumpWriter::finish() { finish_complete(impl_->file, impl_->complete); }

struct KvDump::Impl {
  h5::Reader file;
  DumpLayout layout;
  MappedFile mapped;
  mutable std::mutex mutex;  // of the two below: HDF5 runs on one thread at a time
  mutable std::map<std::string, Tensor> converted;

  explicit Impl(const std::string& path) : file(path), layout(read_dump_layout(file)), mapped(path) {}

  // Once in a child: HDF5 1.10 has memory errors on damaged files.
  static std::unique_ptr<Impl> open(const std::string& path) {
    try_in_child(path, [&] { (void)read_dump_layout(h5::Reader(path)); });
    auto impl = std::make_unique<Impl>(path);
    check_complete(impl->file);
    return impl;
  }

  TensorView view(const DumpArray& array) const {
    const DType dtype = layout.spec.dtype;
    if (array.extent) return {mapped.at(array.extent->offset, array.extent->n_bytes), dtype, array.shape};
    const std::lock_guard lock(mutex);
    const auto known = converted.find(array.name);
    if (known != converted.end()) return known->second;
    const auto read = [&] { return file.read_floats(array.name, dtype, array.shape); };
    try_in_child(file.path(), [&] { (void)read(); });
    return converted.emplace(array.name, read()).first->second;
  }

  KvLayerView view(const DumpLayerArrays& arrays) const {
    return {view(arrays.keys), view(arrays.values), view(arrays.queries)};
  }
};

KvDump::KvDump(const std::string& path) : impl_(Impl::open(path)) {}
KvDump::~KvDump() = default;
KvDump::KvDump(KvDump&&) noexcept = default;

const std::string& KvDump::path() const { return impl_->file.path(); }
const Context& KvDump::context() const { return impl_->layout.context; }
DType KvDump::dtype() const { return impl_->layout.spec.dtype; }
int64_t KvDump::file_bytes() const { return impl_->file.file_bytes(); }
std::span<const int32_t> KvDump::query_positions() const { return impl_->layout.spec.query_positions; }

KvLayerView KvDump::layer(int layer) const { return impl_->view(impl_->layout.layers.at(static_cast<size_t>(layer))); }

int KvDump::n_probes() const { return static_cast<int>(impl_->layout.probes.size()); }

const std::string& KvDump::probe_text(int probe) const {
  return impl_->layout.spec.probe_texts.at(static_cast<size_t>(probe));
}

std::span<const int32_t> KvDump::probe_tokens(int probe) const {
  return impl_->layout.spec.probes.at(static_cast<size_t>(probe));
}

KvLayerView KvDump::probe_layer(int probe, int layer) const {
  return impl_->view(impl_->layout.probes.at(static_cast<size_t>(probe)).at(static_cast<size_t>(layer)));
}

}  // namespace squeeze
