// A made-up indexed context in device memory, large enough that no cache holds it, and calls of decoding over it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/attend_decode.hpp"
#include "kernels/cuda/lookup.hpp"
#include "kernels/cuda/sketch_lookup.hpp"

namespace squeeze::cuda_bench {

using cuda::DeviceArray;
using cuda::Stream;

inline constexpr int kDim = 128, kSinks = 4, kWindow = 100;
inline constexpr int kKeyBytes = 4 * kDim;       // keys and values in bf16
inline constexpr int kCentroidBytes = kDim + 4;  // 8 bits, and a scale
inline constexpr int kMeanBytes = 2 * kDim;
inline constexpr int kSketchBytes = kDim / 8 + 2;

struct Shape {
  int n_query_heads, n_kv_heads;
  int64_t n_tokens;

  int group() const { return n_query_heads / n_kv_heads; }
  int64_t kv_bytes() const { return n_tokens * n_kv_heads * kKeyBytes; }  // of one layer
  std::string str() const;                                                // "32/8 128K"
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
  std::vector<DeviceArray<uint16_t>> keys, values, value_means;  // per layer; value means of the leaves
  std::vector<DeviceArray<uint8_t>> codes;
  DeviceArray<uint16_t> leaf_centroids;  // bf16, for question prefill; the same for all layers
  DeviceArray<uint16_t> sketch_scales;
  DeviceArray<float> rotation;
  std::vector<Level> levels;      // coarsest first
  DeviceArray<int32_t> identity;  // [n_kv_heads, n_leaves + 1]: 0, 1, 2, ... of each head
};

// What one token reads of one layer.
struct CallBytes {
  int64_t keys = 0, index = 0;
  int64_t total() const { return keys + index; }
};

enum class Mode { dense, sparse, sketches };

// Tokens after the context, of one layer.
struct DecodeTail {
  const uint16_t *keys = nullptr, *values = nullptr;  // bf16 [n_works, capacity, kDim]
  int64_t capacity = 0;
  const int32_t* n_rows = nullptr;  // [n_works]
};

// One token's attention, layer after layer, with its buffers; or one token's of several requests over the same context.
class DecodeCall {
 public:
  // share: of the keys (sparse), or of the bytes (sketches).
  DecodeCall(const MadeIndex& index, Mode mode, double share, int n_requests = 1);

  void run_layer(int layer, Stream stream) const;
  void lookup_only(int layer, Stream stream) const;                          // all levels and sketches, no attention
  void attend_only(int layer, const DecodeTail& tail, Stream stream) const;  // over what the last lookup chose

  int n_works() const { return n_works_; }
  float* queries() const { return queries_.data(); }  // [n_works, group, kDim], random at first
  const float* out() const { return out_.data(); }    // the same

  // After run_layer and a synchronisation.
  CallBytes bytes() const;
  // The largest difference of the first query head's output, of the first and the last work, from attention in double
  // precision over what was chosen.
  double largest_error(int layer) const;

 private:
  template <class Args>
  Args with_queries() const;
  template <class Args>
  void set_pinned(Args& a) const;
  template <class Args>
  void set_rest(Args& a) const;
  cuda::LookupArgs lookup_args(int layer, size_t level) const;
  cuda::SketchLookupArgs sketch_args(int layer) const;
  cuda::AttendDecodeArgs attend_args(int layer) const;
  void add_rest(int layer, int work, std::vector<double>& acc, double& sum) const;

  const MadeIndex& index_;
  Mode mode_;
  int max_keys_ = -1;  // of the leaves
  int64_t bytes_ = 0;  // of one head, for sketches and keys
  int n_works_, group_;
  int64_t rows_stride_;
  DeviceArray<float> queries_, out_, rest_logits_, dropped_, cluster_logits_, top_logits_;
  DeviceArray<int32_t> all_rows_, rows_, n_rows_, items_, n_items_, leaves_, n_leaves_, rest_, n_rest_, n_rest_out_;
  std::vector<DeviceArray<char>> lookup_spaces_;
  DeviceArray<char> sketch_space_, attend_space_;
};

}  // namespace squeeze::cuda_bench
