// A made-up indexed context in device memory, large enough that no cache holds it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda_bench {

using cuda::DeviceArray;
using cuda::Stream;

inline constexpr int kDim = 128, kSinks = 4, kWindow = 100;
inline constexpr int kCentroidBytes = kDim + 4;  // 8 bits, and a scale
inline constexpr int kMeanBytes = 2 * kDim;
inline constexpr int kSketchGroup = 4;  // dimensions of four bits
inline constexpr int kSketchBytes = kDim / kSketchGroup / 2 + 2;

struct Shape {
  int n_query_heads, n_kv_heads;
  int64_t n_tokens;
  bool bytes = false;  // keys and values in int8 with a scale per row, not in bf16

  int key_bytes() const { return bytes ? 2 * (kDim + 4) : 4 * kDim; }  // a key and its value
  int group() const { return n_query_heads / n_kv_heads; }
  int64_t kv_bytes() const { return n_tokens * n_kv_heads * key_bytes(); }  // of one layer
  std::string str() const;                                                  // "32/8 128K", "32/8 128K int8"
};

// bf16 [n, kDim], about normal.
std::vector<uint16_t> random_rows(int64_t n);

// Clusters of 20 to 60 keys (of the leaves: 2.5 %) at random places, one level, or two with `coarse`. Keys, values,
// centroids and codes are random: what is measured is reading.
class MadeIndex {
 public:
  MadeIndex(const Shape& shape, bool coarse, bool keys_and_values = true);

  struct Level {
    int n_clusters = 0;
    std::vector<int32_t> host_first_row;  // of every head alike
    DeviceArray<int32_t> first_row, first_child, n_clusters_of;
    std::vector<DeviceArray<int8_t>> centroids;  // per layer
    DeviceArray<float> centroid_scales;
  };

  Shape shape;
  int n_layers;
  int64_t n_clustered;
  std::vector<DeviceArray<char>> keys, values;               // per layer
  std::vector<DeviceArray<float>> key_scales, value_scales;  // the same, if bytes
  std::vector<DeviceArray<uint16_t>> value_means;            // the same, of the leaves
  std::vector<DeviceArray<uint8_t>> codes;
  DeviceArray<uint16_t> leaf_centroids;  // bf16, for question prefill; the same for all layers
  DeviceArray<uint16_t> sketch_scales;
  DeviceArray<int32_t> sketch_dims;  // of the sketches' codebooks, the same for all layers
  DeviceArray<int8_t> sketch_entries;
  DeviceArray<float> sketch_steps, sketch_error;
  std::vector<Level> levels;      // coarsest first
  DeviceArray<int32_t> identity;  // [n_kv_heads, n_leaves + 1]: 0, 1, 2, ... of each head

  // What a kernel's arguments say of a layer's keys and values.
  template <class Args>
  void set_keys(int layer, Args& a) const {
    const auto at = static_cast<size_t>(layer);
    a.dtype = shape.bytes ? DType::i8 : DType::bf16;
    a.keys = keys[at].data();
    a.values = values[at].data();
    a.n_tokens = shape.n_tokens;
    if (!shape.bytes) return;
    a.key_scales = key_scales[at].data();
    a.value_scales = value_scales[at].data();
  }
  // [n_tokens, kDim], the same of keys, values and heads.
  std::vector<float> host_rows(int layer) const;
};

}  // namespace squeeze::cuda_bench
