// A block has 16 rows of weights, whose columns its warps share out. Weights stream from memory into the fragments of
// matrix instructions without a stop in shared memory: a lane loads the 16 bytes that hold its operands of two
// instructions, of weights and of x with the columns permuted alike, several loads ahead. The rows of x are the eight
// columns of the other operand: as many as there are cost the same. The warps' sums are added in their order.
#include "kernels/cuda/matvec.hpp"

#include <stdexcept>
#include <string>

#include "kernels/cuda/launch.cuh"

namespace squeeze::cuda {
namespace {

constexpr int kTileRows = 16;
constexpr int kChunk = 32;  // columns, 8 per lane of a row
constexpr int kAhead = 4;   // chunks whose loads are under way together

// Eight elements of a row from `column` on, zeros behind its end. Aligned: the row is, and has a multiple of eight.
template <bool kAligned>
__device__ void load_eight(const uint16_t* row, int64_t column, int64_t n_columns, uint32_t (&words)[4]) {
#pragma unroll
  for (uint32_t& word : words) word = 0;
  if constexpr (kAligned) {
    if (column >= n_columns) return;
    const auto loaded = load_16(row + column);
    words[0] = loaded.x;
    words[1] = loaded.y;
    words[2] = loaded.z;
    words[3] = loaded.w;
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (column + i < n_columns) words[i / 2] |= uint32_t{row[column + i]} << (i % 2 * 16);
    }
  }
}

// The rows that one lane loads of: lane / 4 and lane / 4 + 8 of the tile, lane / 4 of x. A row that is not there is
// another one instead: nobody reads its sums.
struct LaneRows {
  const uint16_t *upper, *lower, *x;

  __device__ LaneRows(const LinearArgs& a, int64_t first_row) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int64_t row = first_row + lane / 4;
    upper = a.weights + (row < a.out_features ? row : first_row) * a.in_features;
    lower = a.weights + (row + 8 < a.out_features ? row + 8 : first_row) * a.in_features;
    x = a.x + (lane / 4 < a.n_rows ? lane / 4 : 0) * a.in_features;
  }
};

// One lane's operands of kAhead chunks.
struct Chunks {
  uint32_t upper[kAhead][4], lower[kAhead][4], x[kAhead][4];

  template <bool kAligned>
  __device__ void load(const LaneRows& rows, int64_t first_column, int64_t n_columns) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t column = first_column + i * kChunk + static_cast<int>(threadIdx.x) % 4 * 8;
      load_eight<kAligned>(rows.upper, column, n_columns, upper[i]);
      load_eight<kAligned>(rows.lower, column, n_columns, lower[i]);
      load_eight<kAligned>(rows.x, column, n_columns, x[i]);
    }
  }
  __device__ void add_to(float (&sums)[4]) const {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
#pragma unroll
      for (int half = 0; half < 4; half += 2) {
        const uint32_t a[4] = {upper[i][half], lower[i][half], upper[i][half + 1], lower[i][half + 1]};
        mma_16x8x16(sums, a, x[i][half], x[i][half + 1], BF16{});
      }
    }
  }
};

// Sums of 16 rows of weights with the rows of x over this warp's columns: element i is row lane / 4 + i / 2 * 8 of the
// tile for row lane % 4 * 2 + i % 2 of x. What is added next is loaded before.
template <bool kAligned>
__device__ void warp_sums(const LinearArgs& a, int64_t first_row, float (&sums)[4]) {
  const LaneRows rows(a, first_row);
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  constexpr int64_t kColumns = kAhead * kChunk;
  const int64_t step = blockDim.x / kWarpSize * kColumns;
  int64_t first = threadIdx.x / kWarpSize * kColumns;
  Chunks next;
  next.load<kAligned>(rows, first, a.in_features);
  while (first < a.in_features) {
    const Chunks current = next;
    first += step;
    next.load<kAligned>(rows, first, a.in_features);
    current.add_to(sums);
  }
}

template <bool kAligned>
__global__ void __launch_bounds__(512) matvec_kernel(LinearArgs a) {
  auto* of_warps = reinterpret_cast<float*>(shared_memory());  // [warps, kMatvecRows, kTileRows]
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTileRows;
  float sums[4];
  warp_sums<kAligned>(a, first_row, sums);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int x_row = lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
    of_warps[(warp * kMatvecRows + x_row) * kTileRows + row] = sums[i];
  }
  __syncthreads();
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t x_row = thread / kTileRows, row = first_row + thread % kTileRows;
  if (x_row >= a.n_rows || row >= a.out_features) return;
  float sum = 0.0f;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w)
    sum += of_warps[w * kMatvecRows * kTileRows + thread];
  a.out[x_row * a.out_features + row] = a.bias ? sum + a.bias[row] : sum;
}

bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

void matvec(const LinearArgs& a, Stream stream) {
  if (a.n_rows < 0 || a.n_rows > kMatvecRows) {
    throw std::invalid_argument("matvec: expected at most 8 rows, found " + std::to_string(a.n_rows));
  }
  if (a.n_rows * a.out_features == 0) return;
  const int64_t n_tiles = (a.out_features + kTileRows - 1) / kTileRows;
  const unsigned n_warps = n_tiles < 128 ? 16 : 8;  // by the shape only: sums do not depend on the device
  const bool aligned = a.in_features % 8 == 0 && is_aligned(a.x) && is_aligned(a.weights);
  launch(aligned ? matvec_kernel<true> : matvec_kernel<false>,
         {.grid_x = static_cast<unsigned>(n_tiles),
          .threads = n_warps * kWarpSize,
          .shared_bytes = n_warps * kMatvecRows * kTileRows * sizeof(float)},
         stream, a);
}

}  // namespace squeeze::cuda
