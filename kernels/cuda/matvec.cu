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

// Eight elements of a row from `column` on, zeros outside; the row null: zeros.
template <bool kAligned>
__device__ void load_eight(const uint16_t* row, int64_t column, int64_t n_columns, uint32_t (&words)[4]) {
#pragma unroll
  for (uint32_t& word : words) word = 0;
  if (!row) return;
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

// What one lane holds of a chunk: rows lane / 4 and lane / 4 + 8 of the tile, row lane / 4 of x.
struct ChunkFragments {
  uint32_t upper[4], lower[4], x[4];
};

// Sums of 16 rows of weights with the rows of x over this warp's chunks: element i is row lane / 4 + i / 2 * 8 of the
// tile for row lane % 4 * 2 + i % 2 of x.
template <bool kAligned>
__device__ void warp_sums(const LinearArgs& a, int64_t first_row, float (&sums)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t row = first_row + lane / 4;
  const uint16_t* upper = row < a.out_features ? a.weights + row * a.in_features : nullptr;
  const uint16_t* lower = row + 8 < a.out_features ? a.weights + (row + 8) * a.in_features : nullptr;
  const uint16_t* x = lane / 4 < a.n_rows ? a.x + lane / 4 * a.in_features : nullptr;
  const int64_t step = static_cast<int64_t>(blockDim.x) / kWarpSize * kAhead * kChunk;
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  for (int64_t first = static_cast<int64_t>(warp) * kAhead * kChunk; first < a.in_features; first += step) {
    ChunkFragments chunks[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t column = first + i * kChunk + lane % 4 * 8;
      load_eight<kAligned>(upper, column, a.in_features, chunks[i].upper);
      load_eight<kAligned>(lower, column, a.in_features, chunks[i].lower);
      load_eight<kAligned>(x, column, a.in_features, chunks[i].x);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const ChunkFragments& c = chunks[i];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t operand[4] = {c.upper[half * 2], c.lower[half * 2], c.upper[half * 2 + 1],
                                     c.lower[half * 2 + 1]};
        mma_16x8x16(sums, operand, c.x[half * 2], c.x[half * 2 + 1], BF16{});
      }
    }
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
  const unsigned n_warps = n_tiles < 512 ? 16 : 8;  // by the shape only: sums do not depend on the device
  const bool aligned = a.in_features % 8 == 0 && is_aligned(a.x) && is_aligned(a.weights);
  launch(aligned ? matvec_kernel<true> : matvec_kernel<false>,
         {.grid_x = static_cast<unsigned>(n_tiles),
          .threads = n_warps * kWarpSize,
          .shared_bytes = n_warps * kMatvecRows * kTileRows * sizeof(float)},
         stream, a);
}

}  // namespace squeeze::cuda
