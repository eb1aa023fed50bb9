// One head's random content, copied to every head of every layer.
#include "tests/cuda/bench/made_index.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/dtype.hpp"
#include "tests/cuda/bench/random.hpp"

namespace squeeze::cuda_bench {
namespace {

// Layers are attended in turn, so that nothing is cached: 5 % of this is more than caches hold.
constexpr int64_t kRotatedBytes = int64_t{4} << 30;

constexpr int64_t kRotatedCentroids = int64_t{256} << 20;  // the same of lookups alone, which read all centroids

int layers_of(int64_t layer_bytes, int64_t bytes, int64_t most) {
  return static_cast<int>(std::clamp<int64_t>((bytes + layer_bytes - 1) / layer_bytes, 1, most));
}

// `n` copies of one head's content.
template <class T>
DeviceArray<T> repeated(const std::vector<T>& one, int n) {
  DeviceArray<T> out(one.size() * static_cast<size_t>(n));
  cuda::copy_to_device(out.data(), one.data(), one.size() * sizeof(T), nullptr);
  for (int i = 1; i < n; ++i) {
    cuda::copy_on_device(out.data() + one.size() * static_cast<size_t>(i), out.data(), one.size() * sizeof(T), nullptr);
  }
  cuda::synchronize(nullptr);
  return out;
}

std::vector<uint16_t> normal_rows(Random& random, int64_t n) {
  std::vector<uint16_t> rows(static_cast<size_t>(n * kDim));
  for (uint16_t& x : rows) x = f32_to_bf16(random.normal());
  return rows;
}

// Of one head.
std::vector<char> key_rows(Random& random, const Shape& shape) {
  if (shape.bytes) {
    std::vector<char> rows(size_t(shape.n_tokens) * kDim);
    for (char& x : rows) x = static_cast<char>(std::clamp(random.normal() * 40, -127.0f, 127.0f));
    return rows;
  }
  const std::vector<uint16_t> rows = normal_rows(random, shape.n_tokens);
  const auto* first = reinterpret_cast<const char*>(rows.data());
  return {first, first + rows.size() * sizeof(uint16_t)};
}

// Every other row is larger than the rows around it; none in bf16.
std::vector<float> scales_of_rows(const Shape& shape) {
  std::vector<float> scales(shape.bytes ? size_t(shape.n_tokens) : 0);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(1 + i % 2) / 60;
  return scales;
}

MadeIndex::Level make_level(Random& random, const Shape& shape, std::vector<int32_t> first_row,
                            const std::vector<int32_t>& first_child, int n_layers) {
  MadeIndex::Level level;
  level.n_clusters = static_cast<int>(first_row.size()) - 1;
  level.first_row = repeated(first_row, shape.n_kv_heads);
  if (!first_child.empty()) level.first_child = repeated(first_child, shape.n_kv_heads);
  level.n_clusters_of = DeviceArray<int32_t>(std::vector<int32_t>(size_t(shape.n_kv_heads), level.n_clusters));
  level.host_first_row = std::move(first_row);
  std::vector<int8_t> centroids(size_t(level.n_clusters) * kDim);
  for (int8_t& x : centroids) x = static_cast<int8_t>(std::clamp(random.normal() * 40, -127.0f, 127.0f));
  for (int i = 0; i < n_layers; ++i) level.centroids.push_back(repeated(centroids, shape.n_kv_heads));
  level.centroid_scales =
      DeviceArray<float>(std::vector<float>(size_t(level.n_clusters * shape.n_kv_heads), 1.0f / 40));
  return level;
}

}  // namespace

std::vector<uint16_t> random_rows(int64_t n) {
  Random random;
  return normal_rows(random, n);
}

std::string Shape::str() const {
  const std::string tokens =
      n_tokens % (1 << 20) == 0 ? std::to_string(n_tokens >> 20) + "M" : std::to_string(n_tokens >> 10) + "K";
  return std::to_string(n_query_heads) + "/" + std::to_string(n_kv_heads) + " " + tokens + (bytes ? " int8" : "");
}

MadeIndex::MadeIndex(const Shape& made, bool coarse, bool keys_and_values)
    : shape(made),
      n_layers(keys_and_values
                   ? layers_of(made.kv_bytes(), kRotatedBytes, 16)
                   : layers_of(made.n_tokens / 40 * made.n_kv_heads * kCentroidBytes, kRotatedCentroids, 256)),
      n_clustered(made.n_tokens - kSinks - kWindow) {
  Random random;
  std::vector<int32_t> first_row{kSinks};
  const auto end = static_cast<int32_t>(kSinks + n_clustered);
  while (first_row.back() < end) first_row.push_back(std::min(end, first_row.back() + random.between(20, 60)));
  const int n_leaves = static_cast<int>(first_row.size()) - 1;
  if (coarse) {
    std::vector<int32_t> coarse_row{kSinks}, first_leaf{0};
    while (first_leaf.back() < n_leaves) {
      first_leaf.push_back(std::min(n_leaves, first_leaf.back() + random.between(8, 24)));
      coarse_row.push_back(first_row[size_t(first_leaf.back())]);
    }
    levels.push_back(make_level(random, shape, coarse_row, first_leaf, n_layers));
  }
  levels.push_back(make_level(random, shape, first_row, {}, n_layers));
  std::vector<int32_t> numbers(size_t(n_leaves) + 1);
  std::iota(numbers.begin(), numbers.end(), 0);
  identity = repeated(numbers, shape.n_kv_heads);
  if (!keys_and_values) return;
  const std::vector<char> rows = key_rows(random, shape);
  const std::vector<float> row_scales = scales_of_rows(shape);
  const std::vector<uint16_t> means = normal_rows(random, n_leaves);
  std::vector<uint8_t> bits(size_t(n_clustered) * (kSketchBytes - 2));
  for (uint8_t& x : bits) x = static_cast<uint8_t>(random.bits() >> 32);
  for (int i = 0; i < n_layers; ++i) {
    keys.push_back(repeated(rows, shape.n_kv_heads));
    values.push_back(repeated(rows, shape.n_kv_heads));
    key_scales.push_back(repeated(row_scales, shape.n_kv_heads));
    value_scales.push_back(repeated(row_scales, shape.n_kv_heads));
    value_means.push_back(repeated(means, shape.n_kv_heads));
    codes.push_back(repeated(bits, shape.n_kv_heads));
  }
  std::vector<uint16_t> scales(static_cast<size_t>(n_clustered));
  for (uint16_t& x : scales) x = f32_to_f16(0.05f + 0.01f * std::abs(random.normal()));
  leaf_centroids = repeated(normal_rows(random, n_leaves), shape.n_kv_heads);
  sketch_scales = repeated(scales, shape.n_kv_heads);
  std::vector<int32_t> dims(kDim);
  std::iota(dims.begin(), dims.end(), 0);
  sketch_dims = repeated(dims, shape.n_kv_heads);
  std::vector<int8_t> entries(16 * kDim);
  for (int8_t& x : entries) x = static_cast<int8_t>(std::clamp(random.normal() * 40, -127.0f, 127.0f));
  sketch_entries = repeated(entries, shape.n_kv_heads);
  sketch_steps = repeated(std::vector<float>(kDim, 1.0f / 40), shape.n_kv_heads);
  sketch_error = repeated(std::vector<float>{0.3f}, shape.n_kv_heads);
}

std::vector<float> MadeIndex::host_rows(int layer) const {
  std::vector<char> bytes(size_t(shape.n_tokens) * kDim * (shape.bytes ? 1 : 2));
  cuda::copy_to_host(bytes.data(), keys[size_t(layer)].data(), bytes.size(), nullptr);
  const std::vector<float> scales = scales_of_rows(shape);
  std::vector<float> rows(size_t(shape.n_tokens) * kDim);
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = load_element(bytes.data(), shape.bytes ? DType::i8 : DType::bf16, int64_t(i));
    if (shape.bytes) rows[i] *= scales[i / kDim];
  }
  return rows;
}

}  // namespace squeeze::cuda_bench
