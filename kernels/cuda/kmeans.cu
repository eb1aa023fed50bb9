// Assigning (kmeans_assign.cuh), summing and moving in turn. Scores never leave the registers; sums are integers.
#include "kernels/cuda/kmeans.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/kmeans_assign.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kThreads = kKmeansThreads;
constexpr int kWarps = kKmeansWarps;
constexpr float kFixedOne = 1073741824.0f;  // 2^30

struct Workspace {
  uint16_t* centroids;  // bf16 [n_clusters, dim]
  int64_t* sums;        // [n_clusters, dim], in steps of 2^-30
  static size_t centroid_bytes(int n_clusters, int dim) {
    return (static_cast<size_t>(n_clusters) * static_cast<size_t>(dim) * sizeof(uint16_t) + 255) / 256 * 256;
  }
  static size_t sum_bytes(int n_clusters, int dim) {
    return static_cast<size_t>(n_clusters) * static_cast<size_t>(dim) * sizeof(int64_t);
  }
  static Workspace of(const KmeansArgs& a) {
    auto* bytes = static_cast<char*>(a.workspace);
    return {reinterpret_cast<uint16_t*>(bytes),
            reinterpret_cast<int64_t*>(bytes + centroid_bytes(a.n_clusters, a.dim))};
  }
};

struct NormaliseArgs {
  const void* rows;
  DType dtype;
  int64_t n;
  int dim;
  uint16_t* out;
};

__device__ inline float element(const void* rows, DType dtype, int64_t i) {
  const uint32_t bits = static_cast<const uint16_t*>(rows)[i];
  return dtype == DType::bf16 ? unpack_low(bits, BF16{}) : unpack_low(bits, F16{});
}

// A warp per row.
__global__ void __launch_bounds__(kThreads) normalise_kernel(NormaliseArgs a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize; row < a.n; row += step) {
    float squares = 0.0f;
    for (int c = lane; c < a.dim; c += kWarpSize) {
      const float x = element(a.rows, a.dtype, row * a.dim + c);
      squares += x * x;
    }
    squares = warp_sum(squares);
    const float factor = squares > 0.0f ? 1.0f / sqrtf(squares) : 0.0f;
    for (int c = lane; c < a.dim; c += kWarpSize) {
      const float x = element(a.rows, a.dtype, row * a.dim + c) * factor;
      a.out[row * a.dim + c] = static_cast<uint16_t>(pack(x, 0.0f, BF16{}));
    }
  }
}

struct StepArgs {
  KmeansArgs kmeans;
  Workspace space;
};

// A warp per point.
__global__ void __launch_bounds__(kThreads) sum_kernel(StepArgs a) {
  const KmeansArgs& k = a.kmeans;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kWarps;
  for (int64_t point = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize; point < k.n_points;
       point += step) {
    const int64_t cluster = k.nearest[point];
    if (cluster < 0) continue;
    const float factor = kFixedOne * (k.weights ? k.weights[point] : 1.0f);
    for (int c = lane; c < k.dim; c += kWarpSize) {
      const float x = unpack_low(k.points[point * k.dim + c], BF16{});
      atomic_add(&a.space.sums[cluster * k.dim + c], static_cast<int64_t>(llrintf(x * factor)));
    }
  }
}

// A warp per centroid: moves it to the direction of its points' sum, and rounds it for the next assignment.
__global__ void __launch_bounds__(kThreads) move_kernel(StepArgs a) {
  const KmeansArgs& k = a.kmeans;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int cluster = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  if (cluster >= k.n_clusters) return;
  const int64_t first = static_cast<int64_t>(cluster) * k.dim;
  float squares = 0.0f;
  for (int c = lane; c < k.dim; c += kWarpSize) {
    const float x = static_cast<float>(a.space.sums[first + c]) / kFixedOne;
    squares += x * x;
  }
  squares = warp_sum(squares);
  for (int c = lane; c < k.dim; c += kWarpSize) {
    if (squares > 0.0f) {
      k.centroids[first + c] = static_cast<float>(a.space.sums[first + c]) / kFixedOne / sqrtf(squares);
    }
    a.space.sums[first + c] = 0;
    a.space.centroids[first + c] = static_cast<uint16_t>(pack(k.centroids[first + c], 0.0f, BF16{}));
  }
}

unsigned blocks_of(int64_t n, int64_t per_block) { return static_cast<unsigned>((n + per_block - 1) / per_block); }

void launch_assign(const StepArgs& step, Stream stream) {
  const KmeansArgs& k = step.kmeans;
  const AssignArgs args{k.points, k.n_points, step.space.centroids, k.n_clusters, k.nearest, k.best};
  const auto launch_dim = [&](auto config) {
    using C = decltype(config);
    launch(assign_kernel<C>,
           {.grid_x = blocks_of(args.n_points, C::kBlockPoints), .threads = kThreads, .shared_bytes = C::kSharedBytes},
           stream, args);
  };
  switch (k.dim) {
    case 64:
      return launch_dim(AssignConfig<64>{});
    case 96:
      return launch_dim(AssignConfig<96>{});
    case 128:
      return launch_dim(AssignConfig<128>{});
    case 256:
      return launch_dim(AssignConfig<256>{});
  }
}

}  // namespace

void normalise_rows(const void* rows, DType dtype, int64_t n, int dim, uint16_t* out, Stream stream) {
  if (dtype != DType::bf16 && dtype != DType::f16) {
    throw std::invalid_argument("normalise_rows: expected rows of f16 or bf16");
  }
  if (n == 0) return;
  const int64_t blocks = (n + kWarps - 1) / kWarps, wanted = int64_t{8} * device_limits().n_multiprocessors;
  launch(normalise_kernel, {.grid_x = static_cast<unsigned>(blocks < wanted ? blocks : wanted), .threads = kThreads},
         stream, NormaliseArgs{rows, dtype, n, dim, out});
}

size_t kmeans_workspace_bytes(int n_clusters, int dim) {
  return Workspace::centroid_bytes(n_clusters, dim) + Workspace::sum_bytes(n_clusters, dim);
}

void kmeans(const KmeansArgs& a, Stream stream) {
  const bool fits = a.dim == 64 || a.dim == 96 || a.dim == 128 || a.dim == 256;
  if (!fits || a.n_clusters < 1 || a.n_points < 1 || a.n_points > int64_t{1} << 31 || a.iterations < 0) {
    throw std::invalid_argument("kmeans: expected points of dim 64, 96, 128 or 256 and a cluster, found " +
                                std::to_string(a.n_points) + " of dim " + std::to_string(a.dim) + " and " +
                                std::to_string(a.n_clusters) + " clusters");
  }
  const StepArgs step{a, Workspace::of(a)};
  const auto move = [&] {
    launch(move_kernel, {.grid_x = blocks_of(a.n_clusters, kWarps), .threads = kThreads}, stream, step);
  };
  const int64_t wanted = int64_t{16} * device_limits().n_multiprocessors;
  const int64_t blocks = blocks_of(a.n_points, kWarps);
  fill_device(step.space.sums, 0, Workspace::sum_bytes(a.n_clusters, a.dim), stream);
  move();  // sums of zero: only rounds
  for (int i = 0; i < a.iterations; ++i) {
    launch_assign(step, stream);
    launch(sum_kernel, {.grid_x = static_cast<unsigned>(blocks < wanted ? blocks : wanted), .threads = kThreads},
           stream, step);
    move();
  }
  launch_assign(step, stream);
}

}  // namespace squeeze::cuda
