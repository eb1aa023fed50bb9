// Points go over once, rounded to bf16; what comes back is a number per point.
#include "lib/index/cuda_nearest.hpp"

#include "kernels/cuda/kmeans.hpp"
#include "kernels/kernels.hpp"
#include "lib/core/error.hpp"

namespace squeeze {

std::vector<int32_t> cuda_nearest(TensorView points, std::span<const float> weights, Tensor first, int iterations) {
  const int64_t n = points.size(0), dim = points.size(1), n_clusters = first.size(0);
  if (dim != 64 && dim != 96 && dim != 128 && dim != 256) {
    fail("k-means on a CUDA device takes heads of 64, 96, 128 or 256 dimensions, found {}", dim);
  }
  std::vector<uint16_t> rounded(static_cast<size_t>(points.n_elements()));
  kernels().from_f32(points.f32(), points.n_elements(), DType::bf16, rounded.data());
  const cuda::DeviceArray<uint16_t> device_points(rounded);
  const cuda::DeviceArray<float> device_weights(std::vector<float>(weights.begin(), weights.end()));
  const cuda::DeviceArray<float> centroids(std::vector<float>(first.f32(), first.f32() + first.n_elements()));
  const cuda::DeviceArray<int32_t> nearest(static_cast<size_t>(n));
  const cuda::DeviceArray<float> best(static_cast<size_t>(n));
  const cuda::DeviceArray<char> workspace(
      cuda::kmeans_workspace_bytes(static_cast<int>(n_clusters), static_cast<int>(dim)));
  cuda::kmeans({.points = device_points.data(),
                .weights = weights.empty() ? nullptr : device_weights.data(),
                .n_points = n,
                .dim = static_cast<int>(dim),
                .n_clusters = static_cast<int>(n_clusters),
                .iterations = iterations,
                .centroids = centroids.data(),
                .nearest = nearest.data(),
                .best = best.data(),
                .workspace = workspace.data()},
               nullptr);
  return nearest.host();
}

}  // namespace squeeze
