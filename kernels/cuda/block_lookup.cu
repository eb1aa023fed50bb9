// Logits of many queries with all centroids are too many to keep: they are computed twice, on the matrix units. The
// first kernel takes each query row's log-sum-exp; the second one the mean of exp(logit - log-sum-exp) over the rows of
// a block, cluster by cluster; the third selects (select_clusters.cuh).
#include "kernels/cuda/block_lookup.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/attend_state.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/select_clusters.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRows = kWarps * 16;  // query rows that a block of threads has at once
constexpr int kTileClusters = 64;

template <class TElement, int kHeadDim>
struct Config {
  using T = TElement;
  static constexpr int kDim = kHeadDim;
  static constexpr bool kSplit = false;
  static constexpr int kRun = 2;
  static constexpr bool kQueriesShared = false;
  static constexpr int kStride = kDim + 8;
  static constexpr int kKeyTiles = kTileClusters / 8;
  static constexpr size_t kSharedBytes = sizeof(uint16_t) * kTileClusters * kStride;
};

struct Work {
  int number, kv_head, group, first_token, n_rows;
  __device__ static Work of(const BlockLookupArgs& a, int number) {
    const int first = number / a.n_kv_heads * a.block_tokens, left = a.n_queries - first;
    const int group = a.n_query_heads / a.n_kv_heads;
    return {number, number % a.n_kv_heads, group, first, (left < a.block_tokens ? left : a.block_tokens) * group};
  }
  __device__ const float* query(const BlockLookupArgs& a, int row) const {
    if (row >= n_rows) return nullptr;
    const int64_t token = first_token + row / group;
    return a.queries + (token * a.n_query_heads + kv_head * group + row % group) * a.head_dim;
  }
};

struct Space {
  float* log_sums;  // [n_works, block rows], to the base 2
  float* scores;    // [n_works, n_clusters]
  int rows;         // of a block of tokens
};

struct StepArgs {
  BlockLookupArgs lookup;
  Space space;
};

struct Shape {
  int n_works, rows;
  static Shape of(int n_queries, int n_query_heads, int n_kv_heads, int block_tokens) {
    return {(n_queries + block_tokens - 1) / block_tokens * n_kv_heads, block_tokens * (n_query_heads / n_kv_heads)};
  }
};

// A tile of centroids to shared memory; rows behind the last one become zeros.
template <class C>
__device__ void load_tile(const BlockLookupArgs& a, int kv_head, int first, int n_clusters, uint16_t* tile) {
  constexpr int kChunks = C::kDim / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kTileClusters * kChunks; i += kThreads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    const bool valid = first + row < n_clusters;
    const int64_t cluster = static_cast<int64_t>(kv_head) * a.n_clusters + (valid ? first + row : 0);
    copy_async_16(tile + row * C::kStride + column,
                  static_cast<const uint16_t*>(a.centroids) + cluster * C::kDim + column, valid);
  }
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
}

template <class C>
__device__ QueryFragments<C> load_queries(const BlockLookupArgs& a, const Work& work, int first_row) {
  return QueryFragments<C>([&](int i) { return work.query(a, first_row + i); });
}

// Blocks: row blocks of a work in x, works in y.
template <class C>
__global__ void __launch_bounds__(kThreads) log_sum_kernel(StepArgs step) {
  const BlockLookupArgs& a = step.lookup;
  auto* tile = reinterpret_cast<uint16_t*>(shared_memory());
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const Work work = Work::of(a, static_cast<int>(blockIdx.y));
  const int first_row = static_cast<int>(blockIdx.x) * kRows + warp * 16;
  if (static_cast<int>(blockIdx.x) * kRows >= work.n_rows) return;
  const QueryFragments<C> queries = load_queries<C>(a, work, first_row);
  const int n = a.n_clusters_of[work.kv_head];
  const int32_t* first_of = a.first_row + static_cast<int64_t>(work.kv_head) * (a.n_clusters + 1);
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  for (int first = 0; first < n; first += kTileClusters) {
    load_tile<C>(a, work.kv_head, first, n, tile);
    float logits[C::kKeyTiles][4];
    queries.logits(tile, a.scale * kLog2E, logits);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = max[r];
#pragma unroll
      for (int t = 0; t < C::kKeyTiles * 2; ++t) {
        const int cluster = first + t / 2 * 8 + lane % 4 * 2 + t % 2;
        if (cluster < n) top = fmaxf(top, logits[t / 2][r * 2 + t % 2]);
      }
      if (top == -INFINITY) continue;
      sum[r] *= exp2_fast(max[r] - top);
      max[r] = top;
#pragma unroll
      for (int t = 0; t < C::kKeyTiles * 2; ++t) {
        const int cluster = first + t / 2 * 8 + lane % 4 * 2 + t % 2;
        if (cluster >= n) continue;
        const auto size = static_cast<float>(first_of[cluster + 1] - first_of[cluster]);
        sum[r] += size * exp2_fast(logits[t / 2][r * 2 + t % 2] - top);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = fmaxf(max[r], __shfl_xor_sync(kAllLanes, max[r], 1));
    top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
    float all = max[r] == -INFINITY ? 0.0f : sum[r] * exp2_fast(max[r] - top);
    all += __shfl_xor_sync(kAllLanes, all, 1);
    all += __shfl_xor_sync(kAllLanes, all, 2);
    const int row = first_row + lane / 4 + r * 8;
    if (lane % 4 == 0 && row < work.n_rows) {
      step.space.log_sums[static_cast<int64_t>(work.number) * step.space.rows + row] = top + log2f(all);
    }
  }
}

// Blocks: tiles of clusters in x, works in y. Each warp has its share of the work's rows; their sums are added up in
// the order of the warps.
template <class C>
__global__ void __launch_bounds__(kThreads) score_kernel(StepArgs step) {
  const BlockLookupArgs& a = step.lookup;
  auto* tile = reinterpret_cast<uint16_t*>(shared_memory());
  auto* of_warps = reinterpret_cast<float*>(shared_memory() + C::kSharedBytes);  // [kWarps, kTileClusters]
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const Work work = Work::of(a, static_cast<int>(blockIdx.y));
  const int n = a.n_clusters_of[work.kv_head], first = static_cast<int>(blockIdx.x) * kTileClusters;
  if (first >= n) return;
  load_tile<C>(a, work.kv_head, first, n, tile);
  const float* log_sums = step.space.log_sums + static_cast<int64_t>(work.number) * step.space.rows;
  float sums[C::kKeyTiles][2];
#pragma unroll
  for (int t = 0; t < C::kKeyTiles; ++t) sums[t][0] = sums[t][1] = 0.0f;
  for (int row = warp * 16; row < work.n_rows; row += kRows) {
    const QueryFragments<C> queries = load_queries<C>(a, work, row);
    float logits[C::kKeyTiles][4];
    queries.logits(tile, a.scale * kLog2E, logits);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int own = row + lane / 4 + r * 8;
      if (own >= work.n_rows) continue;
      const float log_sum = log_sums[own];
#pragma unroll
      for (int t = 0; t < C::kKeyTiles; ++t) {
        sums[t][0] += exp2_fast(logits[t][r * 2] - log_sum);
        sums[t][1] += exp2_fast(logits[t][r * 2 + 1] - log_sum);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < C::kKeyTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = sums[t][i];
      for (int other = 4; other < kWarpSize; other *= 2) sum += __shfl_xor_sync(kAllLanes, sum, other);
      if (lane < 4) of_warps[warp * kTileClusters + t * 8 + lane * 2 + i] = sum;
    }
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x);
  if (column < kTileClusters && first + column < n) {
    float sum = 0.0f;
    for (int w = 0; w < kWarps; ++w) sum += of_warps[w * kTileClusters + column];
    step.space.scores[static_cast<int64_t>(work.number) * a.n_clusters + first + column] =
        sum / static_cast<float>(work.n_rows);
  }
}

__global__ void __launch_bounds__(kThreads) select_kernel(StepArgs step) {
  const BlockLookupArgs& a = step.lookup;
  auto& shared = *reinterpret_cast<SelectSpace*>(shared_memory());
  LookupArgs args = {};
  args.n_kv_heads = a.n_kv_heads;
  args.group = a.n_query_heads / a.n_kv_heads;
  args.first_row = a.first_row;
  args.n_clusters = a.n_clusters;
  args.n_clusters_of = a.n_clusters_of;
  args.threshold = a.threshold;
  args.max_keys = a.max_keys;
  args.n_sinks = a.n_sinks;
  args.n_window = a.n_window;
  args.n_tokens = a.n_tokens;
  args.kept = a.kept;
  args.kept_stride = a.kept_stride;
  args.n_kept = a.n_kept;
  args.rest = a.rest;
  args.rest_stride = a.rest_stride;
  args.n_rest = a.n_rest;
  const int work = static_cast<int>(blockIdx.x);
  keep_clusters(args, work, LookupItems(args, work), nullptr,
                step.space.scores + static_cast<int64_t>(work) * a.n_clusters, shared);
}

template <class C>
void launch_config(const StepArgs& step, const Shape& shape, Stream stream) {
  const auto works = static_cast<unsigned>(shape.n_works);
  launch(log_sum_kernel<C>,
         {.grid_x = static_cast<unsigned>((shape.rows + kRows - 1) / kRows),
          .grid_y = works,
          .threads = kThreads,
          .shared_bytes = C::kSharedBytes},
         stream, step);
  launch(score_kernel<C>,
         {.grid_x = static_cast<unsigned>((step.lookup.n_clusters + kTileClusters - 1) / kTileClusters),
          .grid_y = works,
          .threads = kThreads,
          .shared_bytes = C::kSharedBytes + sizeof(float) * kWarps * kTileClusters},
         stream, step);
  launch(select_kernel, {.grid_x = works, .threads = kThreads, .shared_bytes = sizeof(SelectSpace)}, stream, step);
}

template <class T>
void launch_type(const StepArgs& step, const Shape& shape, Stream stream) {
  switch (step.lookup.head_dim) {
    case 64:
      return launch_config<Config<T, 64>>(step, shape, stream);
    case 96:
      return launch_config<Config<T, 96>>(step, shape, stream);
    case 128:
      return launch_config<Config<T, 128>>(step, shape, stream);
    case 256:
      return launch_config<Config<T, 256>>(step, shape, stream);
  }
  throw std::invalid_argument("block_lookup: head dim must be 64, 96, 128 or 256, found " +
                              std::to_string(step.lookup.head_dim));
}

}  // namespace

size_t block_lookup_workspace_bytes(int n_queries, int n_query_heads, int n_kv_heads, int block_tokens,
                                    int n_clusters) {
  const Shape shape = Shape::of(n_queries, n_query_heads, n_kv_heads, block_tokens);
  return sizeof(float) * static_cast<size_t>(shape.n_works) *
         (static_cast<size_t>(shape.rows) + static_cast<size_t>(n_clusters));
}

void block_lookup(const BlockLookupArgs& a, Stream stream) {
  if (a.n_queries == 0) return;
  if (a.n_kv_heads < 1 || a.n_query_heads < 1 || a.n_query_heads % a.n_kv_heads != 0 || a.block_tokens < 1 ||
      a.n_queries < 0 || a.n_clusters < 1) {
    throw std::invalid_argument("block_lookup: " + std::to_string(a.n_query_heads) + " query heads, " +
                                std::to_string(a.n_kv_heads) + " KV heads, blocks of " +
                                std::to_string(a.block_tokens) + " tokens and " + std::to_string(a.n_clusters) +
                                " clusters do not fit");
  }
  const Shape shape = Shape::of(a.n_queries, a.n_query_heads, a.n_kv_heads, a.block_tokens);
  auto* log_sums = static_cast<float*>(a.workspace);
  const StepArgs step{a, {log_sums, log_sums + static_cast<int64_t>(shape.n_works) * shape.rows, shape.rows}};
  if (a.dtype == DType::bf16) return launch_type<BF16>(step, shape, stream);
  if (a.dtype == DType::f16) return launch_type<F16>(step, shape, stream);
  throw std::invalid_argument("block_lookup: expected centroids of f16 or bf16");
}

}  // namespace squeeze::cuda
