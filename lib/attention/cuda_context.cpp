// Layer by layer, row by row: types are changed on the way where the device's differ. bf16, f16 and i8 keys and values
// stay what they are, of centroids i8 and the type of the tail; everything else becomes the type of the tail.
#include "lib/attention/cuda_context.hpp"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/attend_decode.hpp"
#include "kernels/kernels.hpp"
#include "lib/attention/cuda_placement.hpp"
#include "lib/core/error.hpp"

namespace squeeze {
namespace {

constexpr int64_t kRowsAtOnce = 8192;

bool is_half(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

// Of the tail.
DType device_type(const ContextView& context) {
  const DType dtype = context.tail_dtype();
  return is_half(dtype) ? dtype : DType::bf16;
}

void check_shape(const ContextView& context) {
  const ModelInfo& model = context.model;
  const int dim = model.head_dim;
  if (dim != 64 && dim != 96 && dim != 128 && dim != 256) {
    fail("attention on a CUDA device takes heads of 64, 96, 128 or 256 dimensions, found {}", dim);
  }
  if (model.group_size() > cuda::kMaxGroup) {
    fail("attention on a CUDA device takes up to {} query heads per KV head, found {}", cuda::kMaxGroup,
         model.group_size());
  }
  if (context.layers[0][0].sketches.rotation.data()) {
    fail("attention on a CUDA device does not read the sketches of an index of version 2 or 3; build the index again");
  }
}

CudaRowCache empty_cache(const std::vector<HeadView>& heads, int n_slots, const CudaStream& stream) {
  CudaRowCache cache;
  cache.n_slots = n_slots;
  if (n_slots == 0) return cache;
  const size_t n_heads = heads.size(), slots = n_heads * static_cast<size_t>(n_slots);
  const size_t part_bytes = slots * static_cast<size_t>(device_row_bytes(heads[0])) / 2;
  cache.keys.resized(part_bytes);
  cache.values.resized(part_bytes);
  const auto fill = [&](CudaBuffer<int32_t>& buffer, size_t n, int byte) {
    cuda::fill_device(buffer.resized(n), byte, n * sizeof(int32_t), stream.get());
  };
  fill(cache.slot_of, n_heads * static_cast<size_t>(heads[0].n_tokens()), 0xff);
  fill(cache.row_of, slots, 0xff);
  fill(cache.used, slots, 0);
  fill(cache.clock, 2 * n_heads, 0);
  return cache;
}

class Uploader {
 public:
  Uploader(DType dtype, const CudaStream& stream) : dtype_(dtype), stream_(stream) {}

  // As dtype_.
  void rows(const ScaledRows& from, void* to) {
    const int64_t n = from.rows.size(0), dim = from.rows.size(1);
    if (from.rows.dtype() == dtype_) return copy(from.rows.data(), from.rows.n_bytes(), to);
    for (int64_t begin = 0; begin < n; begin += kRowsAtOnce) {
      const int64_t end = std::min(n, begin + kRowsAtOnce);
      wide_.resize(DType::f32, {end - begin, dim});
      narrow_.resize(dtype_, {end - begin, dim});
      from.widen(begin, end, wide_.f32());
      kernels().from_f32(wide_.f32(), wide_.n_elements(), dtype_, narrow_.data());
      copy(narrow_.data(), narrow_.n_bytes(), static_cast<uint16_t*>(to) + begin * dim);
    }
  }

  // Keys or values of every head, as they are if they are i8, with their scales. on_host: into the host's memory, but
  // for the scales.
  void context_rows(const std::vector<HeadView>& heads, ScaledRows (HeadView::*of)() const, bool on_host,
                    CudaBuffer<char>& to, CudaBuffer<float>& scales) {
    const auto n_tokens = static_cast<size_t>(heads[0].n_tokens()), dim = static_cast<size_t>(heads[0].keys.size(1));
    const bool bytes = heads[0].keys.dtype() == DType::i8;
    const size_t head_bytes = n_tokens * dim * size_of(bytes ? DType::i8 : dtype_);
    on_host ? to.on_host(heads.size() * head_bytes) : to.resized(heads.size() * head_bytes);
    if (bytes) scales.resized(heads.size() * n_tokens);
    for (size_t h = 0; h < heads.size(); ++h) {
      const ScaledRows from = (heads[h].*of)();
      on_host_ = on_host;
      if (bytes) {
        copy(from.rows.data(), from.rows.n_bytes(), to.data() + h * head_bytes);
      } else {
        rows(from, to.data() + h * head_bytes);
      }
      on_host_ = false;
      if (bytes) copy(from.scales.data(), from.scales.size_bytes(), scales.data() + h * n_tokens);
    }
  }

  CudaLevel level(const std::vector<HeadView>& heads, size_t number, bool own_numbers) {
    CudaLevel level;
    level.dtype = heads[0].levels[number].centroids.dtype() == DType::i8 ? DType::i8 : dtype_;
    std::vector<int32_t> counts;
    for (const HeadView& head : heads) {
      counts.push_back(static_cast<int32_t>(head.levels[number].n_clusters()));
      level.n_clusters = std::max(level.n_clusters, static_cast<int>(counts.back()));
    }
    level.n_clusters_of.filled(counts, stream_);
    bounds(heads, number, own_numbers, level);
    centroids(heads, number, level);
    return level;
  }

 private:
  void copy(const void* from, size_t n_bytes, void* to) const {
    if (on_host_) {
      std::memcpy(to, from, n_bytes);
    } else {
      stream_.upload(from, n_bytes, to);
    }
  }

  void bounds(const std::vector<HeadView>& heads, size_t number, bool own_numbers, CudaLevel& level) {
    const size_t stride = static_cast<size_t>(level.n_clusters) + 1;
    std::vector<int32_t> first_row(heads.size() * stride), first_child(first_row.size());
    for (size_t h = 0; h < heads.size(); ++h) {
      const LevelView& from = heads[h].levels[number];
      for (size_t i = 0; i < stride; ++i) {
        const size_t last = std::min(i, from.first_row.size() - 1);
        first_row[h * stride + i] = from.first_row[last];
        first_child[h * stride + i] = own_numbers ? static_cast<int32_t>(last) : from.first_child[last];
      }
      for (int64_t i = 0; i < from.n_clusters(); ++i) level.largest = std::max(level.largest, from.n_rows(i));
    }
    level.first_row.filled(first_row, stream_);
    level.first_child.filled(first_child, stream_);
  }

  void centroids(const std::vector<HeadView>& heads, size_t number, CudaLevel& level) {
    const size_t n = static_cast<size_t>(level.n_clusters), dim = static_cast<size_t>(heads[0].keys.size(1));
    const size_t head_bytes = n * dim * size_of(level.dtype);
    char* to = level.centroids.resized(heads.size() * head_bytes);
    cuda::fill_device(to, 0, heads.size() * head_bytes, stream_.get());
    std::vector<float> scales(level.dtype == DType::i8 ? heads.size() * n : 0);
    for (size_t h = 0; h < heads.size(); ++h) {
      const LevelView& from = heads[h].levels[number];
      if (level.dtype == DType::i8) {
        stream_.upload(from.centroids.data(), from.centroids.n_bytes(), to + h * head_bytes);
        std::ranges::copy(from.centroid_scales, scales.begin() + static_cast<std::ptrdiff_t>(h * n));
      } else {
        rows(from.centroid_rows(), to + h * head_bytes);
      }
    }
    if (!scales.empty()) level.centroid_scales.filled(scales, stream_);
  }

  DType dtype_;
  const CudaStream& stream_;
  Tensor wide_, narrow_;
  bool on_host_ = false;  // where rows are copied to
};

// The head as it is on the device: its sizes and types (scales are there to be counted).
HeadView without_data(const HeadView& head, DType dtype) {
  HeadView out = head;
  const DType kv_dtype = head.keys.dtype() == DType::i8 ? DType::i8 : dtype;
  out.keys = TensorView(nullptr, kv_dtype, head.keys.shape());
  out.values = TensorView(nullptr, kv_dtype, head.values.shape());
  for (LevelView& level : out.levels) {
    level.value_means = TensorView(nullptr, dtype, level.value_means.shape());
    level.value_scales = {};
    if (level.centroids.dtype() != DType::i8) level.centroids = TensorView(nullptr, dtype, level.centroids.shape());
  }
  return out;
}

// The heads' arrays one after the other; of(head) are as many elements in each.
template <class T, class Of>
void upload_each(const std::vector<HeadView>& heads, const Of& of, const CudaStream& stream, CudaBuffer<T>& out) {
  const size_t n = std::span<const T>(of(heads[0])).size();
  T* target = out.resized(n * heads.size());
  for (const HeadView& head : heads) {
    stream.upload(std::span<const T>(of(head)).data(), n * sizeof(T), target);
    target += n;
  }
}

CudaSketches upload_sketches(const std::vector<HeadView>& heads, const CudaStream& stream) {
  CudaSketches out;
  const SketchView& first = heads[0].sketches;
  if (!first.present()) return out;
  const auto n_keys = static_cast<size_t>(heads[0].n_clustered()), code_bytes = static_cast<size_t>(first.code_bytes());
  out.group_dim = first.group_dim;
  upload_each(
      heads, [](const HeadView& head) { return head.sketches.dims; }, stream, out.dims);
  upload_each(
      heads, [](const HeadView& head) { return head.sketches.entries; }, stream, out.entries);
  upload_each(
      heads, [](const HeadView& head) { return head.sketches.steps; }, stream, out.steps);
  upload_each(
      heads, [](const HeadView& head) { return std::span(&head.sketches.error, 1); }, stream, out.error);
  upload_each(
      heads, [&](const HeadView& head) { return std::span(head.sketches.codes, n_keys * code_bytes); }, stream,
      out.codes);
  upload_each(
      heads, [&](const HeadView& head) { return std::span(head.sketches.scales, n_keys); }, stream, out.scales);
  return out;
}

// n_slots: of the cache of keys and values, if those stay with the host.
CudaLayer upload_layer(const std::vector<HeadView>& heads, DType dtype, bool on_host, int n_slots,
                       const CudaStream& stream) {
  Uploader uploader(dtype, stream);
  CudaLayer layer;
  const HeadView& first = heads[0];
  const auto n_heads = static_cast<int64_t>(heads.size()), dim = first.keys.size(1);
  layer.on_host = on_host;
  if (on_host) layer.cache = empty_cache(heads, n_slots, stream);
  uploader.context_rows(heads, &HeadView::key_rows, on_host, layer.keys, layer.key_scales);
  uploader.context_rows(heads, &HeadView::value_rows, on_host, layer.values, layer.value_scales);
  for (const HeadView& head : heads) layer.heads.push_back(without_data(head, dtype));
  layer.kv_dtype = layer.heads[0].keys.dtype();
  for (size_t i = 0; i < first.levels.size(); ++i) {
    layer.levels.push_back(uploader.level(heads, i, i + 1 == first.levels.size()));
    layer.levels.back().first_mean = layer.n_means;
    layer.n_means += layer.levels.back().n_clusters;
  }
  layer.value_means.resized(static_cast<size_t>(n_heads * layer.n_means * dim));
  for (int64_t h = 0; h < n_heads; ++h) {
    const HeadView& head = heads[static_cast<size_t>(h)];
    for (size_t i = 0; i < head.levels.size(); ++i) {
      const int64_t mean = h * layer.n_means + layer.levels[i].first_mean;
      uploader.rows(head.levels[i].value_rows(), layer.value_means.data() + mean * dim);
    }
  }
  layer.sketches = upload_sketches(heads, stream);
  return layer;
}

}  // namespace

CudaContext upload_context(const ContextView& context, const CudaStream& stream, int64_t device_bytes) {
  check_shape(context);
  const CudaPlacement placed = place_context(context, device_bytes);
  CudaContext out;
  out.model = context.model;
  out.dtype = device_type(context);
  out.n_tokens = context.layers[0][0].n_tokens();
  for (const std::vector<HeadView>& heads : context.layers) {
    out.layers.push_back(
        upload_layer(heads, out.dtype, out.layers.size() >= placed.n_on_device, placed.n_slots, stream));
  }
  cuda::synchronize(stream.get());
  return out;
}

}  // namespace squeeze
