// Assignment is a matrix product whose scores never leave the registers: a block keeps its points as fragments and
// streams all centroids past them, through a ring of shared memory.
#include "kernels/cuda/kmeans.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/warp.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTileClusters = 64;
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

template <int kHeadDim>
struct Config {
  static constexpr int kDim = kHeadDim;
  static constexpr int kSteps = kDim / 16;
  static constexpr int kRowTiles = kDim > 128 ? 1 : 2;  // of 16 points, per warp
  static constexpr int kStages = kDim > 128 ? 2 : 3;
  static constexpr int kBlockPoints = kWarps * kRowTiles * 16;
  static constexpr int kStride = kDim + 8;  // elements of a row in shared memory: eight rows hit different banks
  static constexpr int kStageElements = kTileClusters * kStride;
  static constexpr size_t kSharedBytes = sizeof(uint16_t) * kStages * kStageElements;
};

template <class C>
__device__ void copy_tile(const StepArgs& a, int tile, uint16_t* stage) {
  constexpr int kChunks = C::kDim / 8;  // of 16 bytes, per row
  for (int i = static_cast<int>(threadIdx.x); i < kTileClusters * kChunks; i += kThreads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    const int64_t cluster = static_cast<int64_t>(tile) * kTileClusters + row;
    const bool valid = cluster < a.kmeans.n_clusters;
    copy_async_16(stage + row * C::kStride + column, a.space.centroids + (valid ? cluster : 0) * C::kDim + column,
                  valid);
  }
}

// The best centroid so far of a row of points.
struct Nearest {
  float score = -INFINITY;
  int cluster = -1;
  __device__ void add(float other_score, int other) {
    if (other_score > score) {
      score = other_score;
      cluster = other;
    }
  }
  __device__ void add_lane(int other_lane) {
    const float other_score = __shfl_xor_sync(kAllLanes, score, other_lane);
    const int other = __shfl_xor_sync(kAllLanes, cluster, other_lane);
    if (other_score > score ||
        (other_score == score && static_cast<unsigned>(other) < static_cast<unsigned>(cluster))) {
      score = other_score;
      cluster = other;
    }
  }
};

template <class C>
class WarpPoints {
 public:
  __device__ WarpPoints(const KmeansArgs& a, int64_t first) : first_(first) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int tile = 0; tile < C::kRowTiles; ++tile) {
#pragma unroll
      for (int step = 0; step < C::kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int64_t row = first + tile * 16 + lane / 4 + i % 2 * 8;
          const int column = step * 16 + i / 2 * 8 + lane % 4 * 2;
          a_[tile][step][i] =
              row < a.n_points ? *reinterpret_cast<const uint32_t*>(a.points + row * C::kDim + column) : 0;
        }
      }
    }
  }

  // Scores 64 centroids, the first of which is `base`.
  __device__ void add_tile(const uint16_t* stage, int base, int n_clusters) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const uint16_t* row = stage + (lane % 8 + lane / 16 * 8) * C::kStride + lane / 8 % 2 * 8;
#pragma unroll
    for (int group = 0; group < kTileClusters / 32; ++group) {
      float dots[C::kRowTiles][4][4];
#pragma unroll
      for (int tile = 0; tile < C::kRowTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 16; ++i) dots[tile][i / 4][i % 4] = 0.0f;
      }
#pragma unroll
      for (int step = 0; step < C::kSteps; ++step) {
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          uint32_t b[4];
          load_matrices(b, row + (group * 32 + pair * 16) * C::kStride + step * 16);
#pragma unroll
          for (int tile = 0; tile < C::kRowTiles; ++tile) {
            mma_16x8x16(dots[tile][pair * 2], a_[tile][step], b[0], b[1], BF16{});
            mma_16x8x16(dots[tile][pair * 2 + 1], a_[tile][step], b[2], b[3], BF16{});
          }
        }
      }
      compare(dots, base + group * 32, n_clusters);
    }
  }

  __device__ void write(const KmeansArgs& a) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int tile = 0; tile < C::kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Nearest& own = nearest_[tile][half];
        own.add_lane(1);
        own.add_lane(2);
        const int64_t point = first_ + tile * 16 + lane / 4 + half * 8;
        if (lane % 4 == 0 && point < a.n_points) {
          a.nearest[point] = own.cluster;
          a.best[point] = own.score;
        }
      }
    }
  }

 private:
  __device__ void compare(const float (&dots)[C::kRowTiles][4][4], int base, int n_clusters) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int column = 0; column < 4; ++column) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int cluster = base + column * 8 + lane % 4 * 2 + i % 2;
        if (cluster >= n_clusters) continue;
#pragma unroll
        for (int tile = 0; tile < C::kRowTiles; ++tile) nearest_[tile][i / 2].add(dots[tile][column][i], cluster);
      }
    }
  }

  int64_t first_;
  uint32_t a_[C::kRowTiles][C::kSteps][4];
  Nearest nearest_[C::kRowTiles][2];
};

template <class C>
__global__ void __launch_bounds__(kThreads) assign_kernel(StepArgs a) {
  auto* ring = reinterpret_cast<uint16_t*>(shared_memory());
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  WarpPoints<C> points(a.kmeans, static_cast<int64_t>(blockIdx.x) * C::kBlockPoints + warp * C::kRowTiles * 16);
  const int n_tiles = (a.kmeans.n_clusters + kTileClusters - 1) / kTileClusters;
#pragma unroll
  for (int s = 0; s < C::kStages - 1; ++s) {
    if (s < n_tiles) copy_tile<C>(a, s, ring + s * C::kStageElements);
    copy_async_commit();
  }
  for (int tile = 0; tile < n_tiles; ++tile) {
    copy_async_wait<C::kStages - 2>();
    __syncthreads();  // the tile has landed for all, and all have left the stage that is filled next
    const int ahead = tile + C::kStages - 1;
    if (ahead < n_tiles) copy_tile<C>(a, ahead, ring + ahead % C::kStages * C::kStageElements);
    copy_async_commit();
    points.add_tile(ring + tile % C::kStages * C::kStageElements, tile * kTileClusters, a.kmeans.n_clusters);
  }
  points.write(a.kmeans);
}

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
  const auto launch_dim = [&](auto config) {
    using C = decltype(config);
    launch(assign_kernel<C>,
           {.grid_x = blocks_of(step.kmeans.n_points, C::kBlockPoints),
            .threads = kThreads,
            .shared_bytes = C::kSharedBytes},
           stream, step);
  };
  switch (step.kmeans.dim) {
    case 64:
      return launch_dim(Config<64>{});
    case 96:
      return launch_dim(Config<96>{});
    case 128:
      return launch_dim(Config<128>{});
    case 256:
      return launch_dim(Config<256>{});
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
