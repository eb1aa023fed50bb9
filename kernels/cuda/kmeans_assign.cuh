// The assignment of k-means: a block keeps its points as matrix fragments and streams all centroids past them, through
// a ring of shared memory.
#pragma once

#include "kernels/cuda/warp.cuh"

namespace squeeze::cuda {

inline constexpr int kKmeansThreads = 256;
inline constexpr int kKmeansWarps = kKmeansThreads / kWarpSize;
inline constexpr int kTileClusters = 64;

struct AssignArgs {
  const uint16_t* points;  // bf16 [n_points, dim]
  int64_t n_points;
  const uint16_t* centroids;  // bf16 [n_clusters, dim]
  int n_clusters;
  int32_t* nearest;  // [n_points], the centroid of the largest dot, the lowest of equals
  float* best;       // [n_points], that dot
};

template <int kHeadDim>
struct AssignConfig {
  static constexpr int kDim = kHeadDim;
  static constexpr int kSteps = kDim / 16;
  static constexpr int kRowTiles = kDim > 128 ? 1 : 2;  // of 16 points, per warp
  static constexpr int kStages = kDim > 128 ? 2 : 3;
  static constexpr int kBlockPoints = kKmeansWarps * kRowTiles * 16;
  static constexpr int kStride = kDim + 8;  // elements of a row in shared memory: eight rows hit different banks
  static constexpr int kStageElements = kTileClusters * kStride;
  static constexpr size_t kSharedBytes = sizeof(uint16_t) * kStages * kStageElements;
};

template <class C>
__device__ void copy_tile(const AssignArgs& a, int tile, uint16_t* stage) {
  constexpr int kChunks = C::kDim / 8;  // of 16 bytes, per row
  for (int i = static_cast<int>(threadIdx.x); i < kTileClusters * kChunks; i += kKmeansThreads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    const int64_t cluster = static_cast<int64_t>(tile) * kTileClusters + row;
    const bool valid = cluster < a.n_clusters;
    copy_async_16(stage + row * C::kStride + column, a.centroids + (valid ? cluster : 0) * C::kDim + column, valid);
  }
}

template <class C>
class WarpPoints {
 public:
  __device__ WarpPoints(const AssignArgs& a, int64_t first) : first_(first) {
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

  __device__ void write(const AssignArgs& a) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
    for (int tile = 0; tile < C::kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Best& own = nearest_[tile][half];
        own.add_lane(1);
        own.add_lane(2);
        const int64_t point = first_ + tile * 16 + lane / 4 + half * 8;
        if (lane % 4 == 0 && point < a.n_points) {
          a.nearest[point] = own.index;
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
  Best nearest_[C::kRowTiles][2];
};

template <class C>
__global__ void __launch_bounds__(kKmeansThreads) assign_kernel(AssignArgs a) {
  auto* ring = reinterpret_cast<uint16_t*>(shared_memory());
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  WarpPoints<C> points(a, static_cast<int64_t>(blockIdx.x) * C::kBlockPoints + warp * C::kRowTiles * 16);
  const int n_tiles = (a.n_clusters + kTileClusters - 1) / kTileClusters;
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
    points.add_tile(ring + tile % C::kStages * C::kStageElements, tile * kTileClusters, a.n_clusters);
  }
  points.write(a);
}

}  // namespace squeeze::cuda
