// Flash decoding over gathered rows (Dao et al., "Flash-Decoding", 2023; online softmax: arXiv 1805.02867).
//
// A unit is 16 rows; the units of all works are split evenly over the blocks (work_split.cuh), a block's over its
// warps. Each warp streams its own units through its own ring of shared memory (asynchronous copies, several units
// ahead, no barrier of the block), multiplies on the matrix units and keeps its own running softmax; a block's warps
// are merged at the end of a work, and a work's blocks by the last one to arrive, in a fixed order: results are the
// same from run to run.
//
// Query rows fill the 16 rows of a matrix instruction. Up to 8 of them leave half of it idle, and the idle half takes
// what rounding to 16 bits cuts off, of queries and of softmax weights: the result is as good as with float32 operands.
#pragma once

#include <stdexcept>
#include <string>

#include "kernels/cuda/decode_stream.cuh"
#include "kernels/cuda/last_block.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/work_split.cuh"

namespace squeeze::cuda {

// Partial results and arrival counters.
struct Workspace {
  float* partials;   // [n_slots, group, head_dim + 2]: un-normalised output, maximum, sum
  int32_t* arrived;  // [n_works], zero between calls
};

inline constexpr int kMaxBlocks = 1024;

__host__ __device__ inline Workspace workspace_of(const AttendDecodeArgs& a) {
  auto* arrived = static_cast<int32_t*>(a.workspace);
  return {reinterpret_cast<float*>(arrived + (a.n_works + 31) / 32 * 32), arrived};
}

template <class C>
__device__ void write_result(const AttendDecodeArgs& a, int work, const MergedRow& row, int head, int column) {
  const int64_t at = static_cast<int64_t>(work) * a.group + head;
  a.out[at * C::kDim + column] = row.sum > 0 ? row.value / row.sum : 0.0f;
  if (a.lse && column == 0) a.lse[at] = kLn2 * (row.max + log2f(row.sum));
}

// Adds the warps' states up: the result, or this block's partial one.
template <class C>
__device__ void finish_work(const AttendDecodeArgs& a, int work, const Sharers& blocks, const float* states) {
  const Workspace space = workspace_of(a);
  constexpr int kRow = C::kDim + 2;
  for (int i = static_cast<int>(threadIdx.x); i < a.group * C::kDim; i += C::kThreads) {
    const int head = i / C::kDim, column = i % C::kDim;
    const MergedRow row = merge_row(states + head * kRow, kMaxGroup * kRow, C::kWarps, C::kDim, column);
    if (blocks.alone()) {
      write_result<C>(a, work, row, head, column);
    } else {
      const int64_t slot = static_cast<int64_t>(blockIdx.x) + work;
      float* to = space.partials + (slot * a.group + head) * kRow;
      to[column] = row.value;
      if (column == 0) {
        to[C::kDim] = row.max;
        to[C::kDim + 1] = row.sum;
      }
    }
  }
}

// The last block to arrive merges the partial results of a work, in the order of the blocks.
template <class C>
__device__ void merge_blocks(const AttendDecodeArgs& a, int work, const Sharers& blocks, int32_t* is_last) {
  const Workspace space = workspace_of(a);
  const int n_blocks = blocks.last - blocks.first + 1;
  if (!arrives_last(&space.arrived[work], n_blocks, is_last)) return;
  constexpr int kRow = C::kDim + 2;
  const float* first = space.partials + (static_cast<int64_t>(blocks.first) + work) * a.group * kRow;
  for (int i = static_cast<int>(threadIdx.x); i < a.group * C::kDim; i += C::kThreads) {
    const int head = i / C::kDim, column = i % C::kDim;
    const MergedRow row = merge_row(first + head * kRow, a.group * kRow, n_blocks, C::kDim, column);
    write_result<C>(a, work, row, head, column);
  }
}

// Works without a unit: zeros, and a log-sum-exp of -infinity.
template <class C>
__device__ void write_empty_works(const AttendDecodeArgs& a, const WorkSplit& split) {
  for (int work = static_cast<int>(blockIdx.x); work < a.n_works; work += static_cast<int>(gridDim.x)) {
    if (split.first_unit[work] != split.first_unit[work + 1]) continue;
    for (int i = static_cast<int>(threadIdx.x); i < a.group * C::kDim; i += C::kThreads) {
      write_result<C>(a, work, {}, i / C::kDim, i % C::kDim);
    }
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads) attend_decode_kernel(AttendDecodeArgs a) {
  auto* ring = reinterpret_cast<uint16_t*>(shared_memory());
  auto* states = reinterpret_cast<float*>(ring);  // after the streams have ended
  auto* shared_queries = reinterpret_cast<uint32_t*>(shared_memory() + C::kRingBytes);
  auto* is_last = reinterpret_cast<int32_t*>(shared_memory() + C::kSharedBytes);
  const WorkSplit split = split_work(a.n_works, is_last + 1, [&](int work) { return Units::of(a, work).total(); });
  write_empty_works<C>(a, split);
  const int block = static_cast<int>(blockIdx.x);
  if (block >= split.n_active) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int unit = split.slice_begin(block);
  const int slice_end = split.slice_begin(block + 1);
  while (unit < slice_end) {
    const int work = split.work_of(unit);
    const int work_end = split.first_unit[work + 1] < slice_end ? split.first_unit[work + 1] : slice_end;
    const int first = split.first_unit[work];
    RunningSoftmax<C> state;
    {
      const float* first_head = a.queries + static_cast<int64_t>(work) * a.group * C::kDim;
      const QueryFragments<C> queries([&](int head) { return head < a.group ? first_head + head * C::kDim : nullptr; },
                                      shared_queries);
      if constexpr (C::kQueriesShared) __syncthreads();
      WarpStream<C> stream(a, work, ring + warp * C::kStages * C::kStageElements);
      stream.run(unit - first + warp, work_end - first, C::kWarps, queries, state);
    }
    __syncthreads();
    state.store(states + warp * kMaxGroup * (C::kDim + 2));
    __syncthreads();
    const Sharers blocks = sharers(split, work);
    finish_work<C>(a, work, blocks, states);
    if (!blocks.alone()) merge_blocks<C>(a, work, blocks, is_last);
    __syncthreads();
    unit = work_end;
  }
}

template <class C>
void launch_config(const AttendDecodeArgs& a, Stream stream) {
  const DeviceLimits& limits = device_limits();
  const size_t shared_bytes = C::kSharedBytes + sizeof(int32_t) * (static_cast<size_t>(a.n_works) + 2);
  const size_t reserved = 1024;  // what the system takes of each block's
  const size_t by_memory = limits.shared_bytes_per_multiprocessor / (shared_bytes + reserved);
  static const auto by_registers =
      static_cast<size_t>(blocks_per_multiprocessor(attend_decode_kernel<C>, C::kThreads, 0));
  const size_t per_multiprocessor = by_memory < by_registers ? by_memory : by_registers;
  // All at once: a slice each, so that a block of a second wave would double the time.
  const size_t n_blocks =
      static_cast<size_t>(limits.n_multiprocessors) * (per_multiprocessor < 1 ? 1 : per_multiprocessor);
  launch(attend_decode_kernel<C>,
         {.grid_x = static_cast<unsigned>(n_blocks < kMaxBlocks ? n_blocks : kMaxBlocks),
          .threads = C::kThreads,
          .shared_bytes = shared_bytes},
         stream, a);
}

template <class T, bool kBytes, int kDim, bool kSplit>
void launch_dim(const AttendDecodeArgs& a, Stream stream) {
  constexpr int kWarps = kDim > 128 ? 2 : 4;
  using Deep = DecodeConfig<T, kBytes, kDim, kSplit, kWarps, 3>;
  if constexpr (Deep::kSharedBytes > 96 << 10) {  // not for 8.6 and 8.9, whose blocks have 99 KiB
    if (Deep::kSharedBytes + (8 << 10) > device_limits().shared_bytes_per_block) {
      return launch_config<DecodeConfig<T, kBytes, kDim, kSplit, kWarps, 2>>(a, stream);
    }
  }
  launch_config<Deep>(a, stream);
}

template <class T, bool kBytes, bool kSplit>
void launch_split(const AttendDecodeArgs& a, Stream stream) {
  switch (a.head_dim) {
    case 64:
      return launch_dim<T, kBytes, 64, kSplit>(a, stream);
    case 96:
      return launch_dim<T, kBytes, 96, kSplit>(a, stream);
    case 128:
      return launch_dim<T, kBytes, 128, kSplit>(a, stream);
    case 256:
      return launch_dim<T, kBytes, 256, kSplit>(a, stream);
  }
  throw std::invalid_argument("attend_decode: head dim must be 64, 96, 128 or 256, found " +
                              std::to_string(a.head_dim));
}

template <class T, bool kBytes>
void launch_decode(const AttendDecodeArgs& a, Stream stream) {
  a.group <= 8 ? launch_split<T, kBytes, true>(a, stream) : launch_split<T, kBytes, false>(a, stream);
}

// Keys and values in 8 bits: attend_decode_bytes.cu, so that the kernels compile in two halves, side by side.
void attend_decode_bytes(const AttendDecodeArgs& a, Stream stream);

}  // namespace squeeze::cuda
