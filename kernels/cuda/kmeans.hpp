// K-means by cosine over the keys of one head (lib/index/kmeans.hpp is the CPU's).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_memory.hpp"
#include "kernels/dtype.hpp"

namespace squeeze::cuda {

// out[i] = rows[i] / |rows[i]|, rounded to bf16; a row of zeros stays one. rows: f16 or bf16 [n, dim]; out: bf16 [n,
// dim]. Device memory.
void normalise_rows(const void* rows, DType dtype, int64_t n, int dim, uint16_t* out, Stream stream);

// All pointers are device memory, 16-byte aligned.
struct KmeansArgs {
  const uint16_t* points;  // bf16 [n_points, dim], unit rows
  const float* weights;    // [n_points], positive, together at most 2^32; null: all one
  int64_t n_points;
  int dim;  // 64, 96, 128 or 256
  int n_clusters;
  int iterations;  // moves of the centroids
  float*
      centroids;  // [n_clusters, dim]: where to begin; then the unit means of the clusters, of which some may be empty
  int32_t* nearest;  // [n_points], the centroid of the largest dot, the lowest of equals
  float* best;       // [n_points], that dot
  void* workspace;   // kmeans_workspace_bytes
};

size_t kmeans_workspace_bytes(int n_clusters, int dim);

// Points and centroids meet as bf16 and their dots are summed in float32; means are summed in 64-bit integers (steps of
// 2^-30), so that no order of the threads shows in the result. A centroid without points stays where it is. Throws
// std::invalid_argument for sizes that it does not support.
void kmeans(const KmeansArgs& args, Stream stream);

}  // namespace squeeze::cuda
