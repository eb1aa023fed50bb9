// Flash attention (Dao, arXiv 2307.08691) over gathered rows. A block of threads has 128 query rows of a work, 16 per
// warp, and streams tiles of keys and values through a ring of shared memory. Where the works alone would not fill the
// device, a work's keys are split among several blocks; the last one to arrive merges them, in a fixed order.
#include "kernels/cuda/attend_prefill.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill_tiles.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kMaxSplits = 16;

// Grid: splits, then row blocks of a work, in x; works in y.
struct LaunchArgs {
  AttendPrefillArgs attend;
  int n_splits, n_row_blocks;
  int32_t* arrived;  // [n_works, n_row_blocks], zero between calls
  float* partials;   // [n_works, n_row_blocks, n_splits, kPrefillRows, head_dim + 2]

  __device__ int64_t unit(int work, int row_block) const {
    return static_cast<int64_t>(work) * n_row_blocks + row_block;
  }
};

template <class C>
__device__ void add_tiles(const LaunchArgs& a, const PrefillWork& work, int first_row, int begin, int end,
                          uint16_t* ring, RunningSoftmax<C>& state) {
  const AttendPrefillArgs& args = a.attend;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const PrefillTiles<C> tiles = PrefillTiles<C>::of(args, work, first_row);
  const int first_own = first_row + warp * 16;
  const QueryFragments<C> queries([&](int i) {
    const int row = first_own + i;
    return row < work.n_rows() ? args.queries + work.query_of(args, row) * C::kDim : nullptr;
  });
  if (begin < end) copy_prefill_tile<C>(args, work, tiles.at(begin), ring);
  copy_async_commit();
  for (int number = begin; number < end; ++number) {
    const PrefillTile tile = tiles.at(number);
    uint16_t* stage = ring + (number - begin) % C::kStages * C::kStageElements;
    copy_async_wait<0>();
    __syncthreads();  // the tile has landed for all, and all have left the other stage
    if (number + 1 < end) {
      copy_prefill_tile<C>(args, work, tiles.at(number + 1),
                           ring + (number + 1 - begin) % C::kStages * C::kStageElements);
    }
    copy_async_commit();
    float logits[C::kKeyTiles][4];
    const bool bytes = C::kBytes && tile.part == PrefillPart::context;
    if (!bytes) queries.logits(stage, args.scale * kLog2E, logits);
    if constexpr (C::kBytes) {
      if (bytes) queries.logits(byte_rows<C>(stage, 0), args.scale * kLog2E, logits);
    }
    int n_valid[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      n_valid[r] = tile.n;
      if (tile.part == PrefillPart::tail) {
        const int token = work.first_token + (first_own + lane / 4 + r * 8) / work.group;
        const int seen = args.n_tail_before + token + 1 - tile.first;
        n_valid[r] = seen < tile.n ? seen : tile.n;
      }
    }
    if (tile.part == PrefillPart::rest) {
#pragma unroll
      for (int t = 0; t < C::kKeyTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = t * 8 + lane % 4 * 2 + i % 2;
          if (key >= tile.n) continue;
          const int cluster = args.rest[work.number * args.rest_stride + tile.first + key];
          logits[t][i] += args.log_sizes[work.kv_head * args.n_clusters + cluster] * kLog2E;
        }
      }
    }
    if (!bytes) state.add(logits, n_valid, stage + C::kTileKeys * C::kStride);
    if constexpr (C::kBytes) {
      if (bytes) state.add(logits, n_valid, byte_rows<C>(stage, 1));
    }
  }
  copy_async_wait<0>();
}

// This warp's rows, normalised.
template <class C>
__device__ void write_rows(const AttendPrefillArgs& a, const PrefillWork& work, int first_own,
                           const RunningSoftmax<C>& state) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_own + lane / 4 + r * 8;
    const float sum = state.sum(r);
    if (row >= work.n_rows()) continue;
    float* out = a.out + work.query_of(a, row) * C::kDim;
    const float factor = sum > 0.0f ? 1.0f / sum : 0.0f;
    state.for_output(r, [&](int column, float x) { out[column] = x * factor; });
  }
}

// The splits of a row block, in their order, by the last one to arrive.
template <class C>
__device__ void merge_splits(const LaunchArgs& a, const PrefillWork& work, int row_block, int32_t* is_last) {
  const int64_t unit = a.unit(work.number, row_block);
  if (!arrives_last(&a.arrived[unit], a.n_splits, is_last)) return;
  constexpr int kRow = C::kDim + 2;
  const float* first = a.partials + unit * a.n_splits * kPrefillRows * kRow;
  for (int i = static_cast<int>(threadIdx.x); i < kPrefillRows * C::kDim; i += kPrefillThreads) {
    const int row = i / C::kDim, column = i % C::kDim;
    if (row_block * kPrefillRows + row >= work.n_rows()) break;
    const MergedRow merged = merge_row(first + row * kRow, kPrefillRows * kRow, a.n_splits, C::kDim, column);
    a.attend.out[work.query_of(a.attend, row_block * kPrefillRows + row) * C::kDim + column] =
        merged.sum > 0.0f ? merged.value / merged.sum : 0.0f;
  }
}

template <class C>
__global__ void __launch_bounds__(kPrefillThreads) attend_prefill_kernel(LaunchArgs a) {
  auto* ring = reinterpret_cast<uint16_t*>(shared_memory());
  auto* is_last = reinterpret_cast<int32_t*>(shared_memory() + C::kSharedBytes);
  const int split = static_cast<int>(blockIdx.x) % a.n_splits, row_block = static_cast<int>(blockIdx.x) / a.n_splits;
  const PrefillWork work = PrefillWork::of(a.attend, static_cast<int>(blockIdx.y));
  const int first_row = row_block * kPrefillRows;
  if (first_row >= work.n_rows()) return;
  const int n_tiles = PrefillTiles<C>::of(a.attend, work, first_row).total();
  RunningSoftmax<C> state;
  add_tiles<C>(a, work, first_row, split * n_tiles / a.n_splits, (split + 1) * n_tiles / a.n_splits, ring, state);
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  if (a.n_splits == 1) {
    write_rows<C>(a.attend, work, first_row + warp * 16, state);
    return;
  }
  const int64_t slot = a.unit(work.number, row_block) * a.n_splits + split;
  state.store(a.partials + (slot * kPrefillRows + warp * 16) * (C::kDim + 2));
  merge_splits<C>(a, work, row_block, is_last);
}

struct Grid {
  int n_works, n_row_blocks, n_splits;
};

// Splits keys until about two blocks fall on each multiprocessor.
Grid grid_of(int n_queries, int n_query_heads, int n_kv_heads, int block_tokens) {
  const int n_works = (n_queries + block_tokens - 1) / block_tokens * n_kv_heads;
  const int tokens = n_queries < block_tokens ? n_queries : block_tokens;
  const int n_row_blocks = (tokens * (n_query_heads / n_kv_heads) + kPrefillRows - 1) / kPrefillRows;
  const int n_blocks = n_works * n_row_blocks;
  const int wanted = n_blocks > 0 ? 2 * device_limits().n_multiprocessors / n_blocks : 1;
  return {n_works, n_row_blocks, wanted < 1 ? 1 : wanted < kMaxSplits ? wanted : kMaxSplits};
}

size_t counter_bytes(const Grid& grid) {
  return (static_cast<size_t>(grid.n_works) * static_cast<size_t>(grid.n_row_blocks) * sizeof(int32_t) + 255) / 256 *
         256;
}

template <class C>
void launch_config(const AttendPrefillArgs& a, Stream stream) {
  const Grid grid = grid_of(a.n_queries, a.n_query_heads, a.n_kv_heads, a.block_tokens);
  auto* bytes = static_cast<char*>(a.workspace);
  const LaunchArgs args{a, grid.n_splits, grid.n_row_blocks, reinterpret_cast<int32_t*>(bytes),
                        reinterpret_cast<float*>(bytes + counter_bytes(grid))};
  launch(attend_prefill_kernel<C>,
         {.grid_x = static_cast<unsigned>(grid.n_row_blocks * grid.n_splits),
          .grid_y = static_cast<unsigned>(grid.n_works),
          .threads = kPrefillThreads,
          .shared_bytes = C::kSharedBytes + sizeof(int32_t)},
         stream, args);
}

template <class T, bool kBytes>
void launch_type(const AttendPrefillArgs& a, Stream stream) {
  switch (a.head_dim) {
    case 64:
      return launch_config<PrefillConfig<T, kBytes, 64>>(a, stream);
    case 96:
      return launch_config<PrefillConfig<T, kBytes, 96>>(a, stream);
    case 128:
      return launch_config<PrefillConfig<T, kBytes, 128>>(a, stream);
    case 256:
      return launch_config<PrefillConfig<T, kBytes, 256>>(a, stream);
  }
  throw std::invalid_argument("attend_prefill: head dim must be 64, 96, 128 or 256, found " +
                              std::to_string(a.head_dim));
}

}  // namespace

size_t attend_prefill_workspace_bytes(int n_queries, int n_query_heads, int n_kv_heads, int head_dim,
                                      int block_tokens) {
  const Grid grid = grid_of(n_queries, n_query_heads, n_kv_heads, block_tokens);
  const size_t units = static_cast<size_t>(grid.n_works) * static_cast<size_t>(grid.n_row_blocks);
  const size_t row = (static_cast<size_t>(head_dim) + 2) * sizeof(float);
  const size_t partials = grid.n_splits > 1 ? units * static_cast<size_t>(grid.n_splits) * kPrefillRows * row : 0;
  return counter_bytes(grid) + partials;
}

void attend_prefill(const AttendPrefillArgs& a, Stream stream) {
  if (a.n_queries == 0) return;
  if (a.n_kv_heads < 1 || a.n_query_heads < 1 || a.n_query_heads % a.n_kv_heads != 0 || a.block_tokens < 1 ||
      a.n_queries < 0) {
    throw std::invalid_argument("attend_prefill: " + std::to_string(a.n_query_heads) + " query heads, " +
                                std::to_string(a.n_kv_heads) + " KV heads and blocks of " +
                                std::to_string(a.block_tokens) + " tokens do not fit");
  }
  const bool bytes = a.dtype == DType::i8;
  const DType float_type = bytes ? a.float_type : a.dtype;
  if (float_type != DType::bf16 && float_type != DType::f16) {
    throw std::invalid_argument("attend_prefill: expected keys and values of f16 or bf16, or i8 beside one of these");
  }
  if (float_type == DType::bf16) {
    bytes ? launch_type<BF16, true>(a, stream) : launch_type<BF16, false>(a, stream);
  } else {
    bytes ? launch_type<F16, true>(a, stream) : launch_type<F16, false>(a, stream);
  }
}

}  // namespace squeeze::cuda
