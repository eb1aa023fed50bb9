// Centroids stream from memory into matrix fragments without a stop in shared memory: a lane loads the 16 bytes that
// hold its operands of two instructions, with the dimensions permuted alike for queries and centroids. Queries keep 16
// more bits in the idle half of the matrix (at most 8 heads; see decode_kernel.cuh). The last block of a work to arrive
// selects (select_clusters.cuh).
#include "kernels/cuda/lookup.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/attend_state.cuh"
#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/lookup_state.cuh"
#include "kernels/cuda/select_clusters.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kTileClusters = 8;

template <DType kType, int kHeadDim, bool kSplitRows>
struct Config {
  static constexpr bool kBytes = kType == DType::i8;
  using T = std::conditional_t<kType == DType::bf16, BF16, F16>;  // bytes are widened to f16
  static constexpr int kDim = kHeadDim;
  static constexpr bool kSplit = kSplitRows;
  static constexpr int kRun = 8;
  static constexpr bool kQueriesShared = false;
  static constexpr int kChunks = kDim / 32;  // of 32 dimensions, 8 per lane of a row
};

// Dots of a group of queries with the eight centroids whose fragments `words` holds; split: elements 2 and 3 are not
// set.
template <class C>
__device__ void centroid_dots(const QueryFragments<C>& queries, const uint32_t (&words)[C::kChunks][4],
                              float (&out)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i] = 0.0f;
#pragma unroll
  for (int chunk = 0; chunk < C::kChunks; ++chunk) {
    uint32_t first[4], second[4];
    queries.load(2 * chunk, first);
    queries.load(2 * chunk + 1, second);
    mma_16x8x16(out, first, words[chunk][0], words[chunk][1], typename C::T{});
    mma_16x8x16(out, second, words[chunk][2], words[chunk][3], typename C::T{});
  }
  if constexpr (C::kSplit) {
    out[0] += out[2];
    out[1] += out[3];
  }
}

// This lane's part of the centroid of its row of a tile.
template <class C>
__device__ void load_centroid(const void* centroids, int64_t cluster, uint32_t (&words)[C::kChunks][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int chunk = 0; chunk < C::kChunks; ++chunk) {
    const int64_t at = cluster * C::kDim + chunk * 32 + lane % 4 * 8;
    if constexpr (C::kBytes) {
      const auto bytes = load_8(static_cast<const char*>(centroids) + at);
      widen_bytes(bytes.x, words[chunk][0], words[chunk][1], F16{});
      widen_bytes(bytes.y, words[chunk][2], words[chunk][3], F16{});
    } else {
      const auto loaded = load_16(static_cast<const uint16_t*>(centroids) + at);
      words[chunk][0] = loaded.x;
      words[chunk][1] = loaded.y;
      words[chunk][2] = loaded.z;
      words[chunk][3] = loaded.w;
    }
  }
}

// The tiles of this block: logits to the workspace, and their softmax sums.
template <class C>
__device__ void score_tiles(const LookupArgs& a, int work, const LookupSpace& space, ClusterSums (&sums)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const LookupItems items(a, work);
  const float* first_head = a.queries + static_cast<int64_t>(work) * a.group * C::kDim;
  const QueryFragments<C> queries([&](int row) { return row < a.group ? first_head + row * C::kDim : nullptr; });
  const int64_t head = work % a.n_kv_heads;
  const int step = static_cast<int>(gridDim.x) * kWarps * kTileClusters;
  for (int first = (static_cast<int>(blockIdx.x) * kWarps + warp) * kTileClusters; first < items.n; first += step) {
    const int row = first + lane / 4;
    uint32_t words[C::kChunks][4];
    load_centroid<C>(a.centroids, head * a.n_clusters + items.cluster(row < items.n ? row : first), words);
    float dots[4];
    centroid_dots(queries, words, dots);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int position = first + lane % 4 * 2 + i % 2;
      const int query_head = lane / 4 + i / 2 * 8;
      if (position >= items.n || query_head >= a.group || (C::kSplit && i >= 2)) continue;
      const int cluster = items.cluster(position);
      const float factor =
          C::kBytes ? a.scale * kByteUnit<F16> * a.centroid_scales[head * a.n_clusters + cluster] : a.scale;
      const float logit = factor * dots[i];
      space.logits[(static_cast<int64_t>(work) * a.group + query_head) * a.n_clusters + position] = logit;
      if (a.cluster_logits) {
        a.cluster_logits[(static_cast<int64_t>(work) * a.group + query_head) * a.n_clusters + cluster] = logit;
      }
      sums[i / 2].add(logit, items.n_keys(cluster));
    }
  }
}

// Adds the lanes' and the warps' sums up, for all blocks of the work to see.
__device__ void publish_sums(const LookupArgs& a, int work, const LookupSpace& space, const ClusterSums (&sums)[2],
                             ClusterSums* of_warps) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    ClusterSums own = sums[i];
    own.add(own.of_lane(lane ^ 1));
    own.add(own.of_lane(lane ^ 2));
    if (lane % 4 == 0) of_warps[warp * 16 + lane / 4 + i * 8] = own;
  }
  __syncthreads();
  const int head = static_cast<int>(threadIdx.x);
  if (head < a.group) {
    ClusterSums all;
    for (int w = 0; w < kWarps; ++w) all.add(of_warps[w * 16 + head]);
    space.sums[(static_cast<int64_t>(work) * gridDim.x + blockIdx.x) * a.group + head] = all;
  }
}

struct Shared {
  ClusterSums of_warps[kWarps * 16];
  int32_t is_last;
  SelectSpace select;
};

template <class C>
__global__ void __launch_bounds__(kThreads) lookup_kernel(LookupArgs a) {
  auto& shared = *reinterpret_cast<Shared*>(shared_memory());
  const int work = static_cast<int>(blockIdx.y);
  const LookupSpace space = LookupSpace::of(a);
  {
    ClusterSums sums[2];
    score_tiles<C>(a, work, space, sums);
    publish_sums(a, work, space, sums, shared.of_warps);
  }
  const int n_blocks = static_cast<int>(gridDim.x);
  if (arrives_last(&space.arrived[work], n_blocks, &shared.is_last)) {
    select_clusters(a, work, space, n_blocks, shared.select);
  }
}

template <DType kType, int kDim, bool kSplit>
void launch_config(const LookupArgs& a, Stream stream) {
  const int n_tiles = (a.n_clusters + kTileClusters - 1) / kTileClusters;
  const int for_tiles = (n_tiles + kWarps - 1) / kWarps;  // a tile per warp
  const int wanted = 4 * device_limits().n_multiprocessors / a.n_works;
  const int n_blocks = for_tiles < wanted ? for_tiles : wanted;
  launch(lookup_kernel<Config<kType, kDim, kSplit>>,
         {.grid_x = static_cast<unsigned>(n_blocks < 1                  ? 1
                                          : n_blocks < kMaxLookupBlocks ? n_blocks
                                                                        : kMaxLookupBlocks),
          .grid_y = static_cast<unsigned>(a.n_works),
          .threads = kThreads,
          .shared_bytes = sizeof(Shared)},
         stream, a);
}

template <DType kType, bool kSplit>
void launch_type(const LookupArgs& a, Stream stream) {
  switch (a.head_dim) {
    case 64:
      return launch_config<kType, 64, kSplit>(a, stream);
    case 96:
      return launch_config<kType, 96, kSplit>(a, stream);
    case 128:
      return launch_config<kType, 128, kSplit>(a, stream);
    case 256:
      return launch_config<kType, 256, kSplit>(a, stream);
  }
  throw std::invalid_argument("lookup: head dim must be 64, 96, 128 or 256, found " + std::to_string(a.head_dim));
}

template <DType kType>
void launch_split(const LookupArgs& a, Stream stream) {
  a.group <= 8 ? launch_type<kType, true>(a, stream) : launch_type<kType, false>(a, stream);
}

}  // namespace

size_t lookup_workspace_bytes(int n_works, int group, int n_clusters) {
  return LookupSpace::bytes(n_works, group, n_clusters);
}

void lookup(const LookupArgs& a, Stream stream) {
  if (a.n_works == 0) return;
  if (a.group < 1 || a.group > 16 || a.n_works < 0 || a.n_works > 1 << 15 || a.n_clusters < 1) {
    throw std::invalid_argument(
        "lookup: expected groups of 1 to 16 query heads, up to 32768 works and a cluster, found " +
        std::to_string(a.group) + ", " + std::to_string(a.n_works) + " and " + std::to_string(a.n_clusters));
  }
  if (a.max_heads < 1 || a.group % a.max_heads != 0) {
    throw std::invalid_argument("lookup: " + std::to_string(a.group) + " rows are not those of " +
                                std::to_string(a.max_heads) + " heads");
  }
  switch (a.dtype) {
    case DType::bf16:
      return launch_split<DType::bf16>(a, stream);
    case DType::f16:
      return launch_split<DType::f16>(a, stream);
    case DType::i8:
      return launch_split<DType::i8>(a, stream);
    case DType::f32:
      break;
  }
  throw std::invalid_argument("lookup: expected centroids of f16, bf16 or i8");
}

}  // namespace squeeze::cuda
