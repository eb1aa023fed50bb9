// The iterations of k-means on a CUDA device.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/core/tensor.hpp"

namespace squeeze {

// Each point's nearest centroid after `iterations` moves of the centroids. points: f32 [n, dim], unit rows; weights:
// [n] or empty (all one); first: f32 [n_clusters, dim], where the centroids begin. Throws if the device cannot do it,
// or if this build has no CUDA.
std::vector<int32_t> cuda_nearest(TensorView points, std::span<const float> weights, Tensor first, int iterations);

}  // namespace squeeze
