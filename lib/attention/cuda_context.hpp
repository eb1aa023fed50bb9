// An indexed context in the memory of a CUDA device.
#pragma once

#include <vector>

#include "lib/attention/context_attention.hpp"
#include "lib/core/cuda_device.hpp"

namespace squeeze {

// One level of one layer; arrays have the stride of the head that has most clusters.
struct CudaLevel {
  int n_clusters = 0;
  int32_t largest = 0;                // keys of its largest cluster
  int first_mean = 0;                 // of its value means, among those of all levels
  DType dtype = DType::bf16;          // of the centroids: as keys and values, or i8
  CudaBuffer<char> centroids;         // [n_kv_heads, n_clusters, head_dim]
  CudaBuffer<float> centroid_scales;  // [n_kv_heads, n_clusters] if i8
  CudaBuffer<int32_t> first_row;      // [n_kv_heads, n_clusters + 1]
  CudaBuffer<int32_t> first_child;    // the same; of leaves their own numbers
  CudaBuffer<int32_t> n_clusters_of;  // [n_kv_heads]
};

// Of all heads of a layer, as SketchView; empty without sketches.
struct CudaSketches {
  int group_dim = 0;
  CudaBuffer<int32_t> dims;
  CudaBuffer<int8_t> entries;
  CudaBuffer<float> steps, error;
  CudaBuffer<uint8_t> codes;
  CudaBuffer<uint16_t> scales;
};

// Rows of keys and values that lie in the host's memory and were read lately (kernels/cuda/row_cache.hpp).
struct CudaRowCache {
  int n_slots = 0;                   // per KV head; 0: there is none
  CudaBuffer<char> keys, values;     // [n_kv_heads, n_slots, head_dim]
  CudaBuffer<int32_t> slot_of;       // [n_kv_heads, n_tokens]
  CudaBuffer<int32_t> row_of, used;  // [n_kv_heads, n_slots]
  CudaBuffer<int32_t> clock;         // [n_kv_heads, 2]
};

struct CudaLayer {
  std::vector<HeadView> heads;    // as they are on the device, without data: for rules, and for counting bytes
  DType kv_dtype = DType::bf16;   // of keys and values: the context's, or i8
  CudaBuffer<char> keys, values;  // [n_kv_heads, n_tokens, head_dim]
  bool on_host = false;           // keys and values are in the host's memory, read over the bus
  CudaRowCache cache;             // of these
  CudaBuffer<float> key_scales, value_scales;  // [n_kv_heads, n_tokens] if i8
  std::vector<CudaLevel> levels;               // coarsest first
  int n_means = 0;                             // value means per head, level by level
  CudaBuffer<uint16_t> value_means;            // [n_kv_heads, n_means, head_dim]
  CudaSketches sketches;

  int32_t n_sinks() const { return heads[0].n_sinks; }
  int32_t n_window() const { return heads[0].n_window; }
  int64_t n_clustered() const { return heads[0].n_clustered(); }
};

struct CudaContext {
  ModelInfo model;
  DType dtype = DType::bf16;  // bf16 or f16: of tails and value means, and of keys, values and centroids if not i8
  int64_t n_tokens = 0;
  std::vector<CudaLayer> layers;
};

// Copies a context to the device; the view's row bounds are read as long as the result lives. Of layers whose keys and
// values do not fit, last layers first, these stay in pinned memory of the host, and rows that were read lately are
// cached on the device: half of their rows, or, on all layers alike, as many as there is room for. device_bytes: what
// the context may take at most; 0: what is free. Throws if the rest of the index does not fit, or the kernels do not
// support the shape.
CudaContext upload_context(const ContextView& context, const CudaStream& stream, int64_t device_bytes = 0);

}  // namespace squeeze
