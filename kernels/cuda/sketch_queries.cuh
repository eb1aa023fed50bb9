// Rotated queries as integers, in shared memory, and as matrix fragments that meet the bits of a code.
#pragma once

#include "kernels/cuda/sketch_lookup.hpp"
#include "kernels/cuda/warp.cuh"

namespace squeeze::cuda {

inline constexpr int kSketchHeads = 16;
inline constexpr int kMaxSketchDim = 256;

// A rotated query is step * (256 high + low): 16 bits, of which groups of more than 8 heads use the upper 8.
struct SketchQueries {  // shared memory
  float rotated[kSketchHeads][kMaxSketchDim];
  int8_t high[kSketchHeads][kMaxSketchDim];
  int8_t low[kSketchHeads][kMaxSketchDim];
  int32_t sum[kSketchHeads];   // of the integers
  float factor[kSketchHeads];  // softmax scale * step
};

// By all threads of the block; ends with a barrier.
__device__ inline void rotate_queries(const SketchLookupArgs& a, int work, bool split, SketchQueries& out) {
  const int dim = a.head_dim;
  const float* queries = a.queries + static_cast<int64_t>(work) * a.group * dim;
  for (int i = static_cast<int>(threadIdx.x); i < a.group * dim; i += static_cast<int>(blockDim.x)) {
    const int head = i / dim, row = i % dim;
    float sum = 0.0f;
    for (int c = 0; c < dim; ++c) sum += a.rotation[row * dim + c] * queries[head * dim + c];
    out.rotated[head][row] = sum;
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  for (int head = warp; head < kSketchHeads; head += static_cast<int>(blockDim.x) / kWarpSize) {
    float largest = 0.0f;
    for (int c = lane; c < dim && head < a.group; c += kWarpSize) {
      largest = fmaxf(largest, fabsf(out.rotated[head][c]));
    }
    largest = warp_max(largest);
    const float step = largest > 0.0f ? largest / 32000.0f : 1.0f;
    int sum = 0;
    for (int c = lane; c < dim; c += kWarpSize) {
      const int whole = head < a.group ? static_cast<int>(rintf(out.rotated[head][c] / step)) : 0;
      const int high = (whole + 128) >> 8;  // rounds; at most 125
      const int low = split ? whole - high * 256 : 0;
      out.high[head][c] = static_cast<int8_t>(high);
      out.low[head][c] = static_cast<int8_t>(low);
      sum += high * 256 + low;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      out.sum[head] = sum;
      out.factor[head] = a.scale * step;
    }
  }
  __syncthreads();
}

// Lane t of a key's four lanes holds dimensions t * kDim / 4 and on: words of bits, spread so that bit j of every byte
// goes to operand j.
template <int kHeadDim>
struct CodeLayout {
  static constexpr int kDim = kHeadDim;
  static constexpr int kWords = kDim > 128 ? kDim / 128 : 1;  // per lane
  static constexpr int kBits = kDim / 4 / kWords / 4;         // per byte of a spread word
  static constexpr int kSteps = kWords * kBits / 2;           // matrix instructions, of 32 dimensions
  static constexpr int kLaneBytes = kDim / 32;                // of a code
  // The dimension that byte i of operand j of word w stands for.
  __device__ static int dimension(int t, int w, int j, int i) { return t * kDim / 4 + w * 32 + i * kBits + j; }

  __device__ static uint32_t spread(const uint8_t* lane_bytes, int w) {
    if constexpr (kBits == 8) {
      return *reinterpret_cast<const uint32_t*>(lane_bytes + w * 4);
    } else if constexpr (kBits == 4) {
      const uint32_t bits = *reinterpret_cast<const uint16_t*>(lane_bytes);
      const uint32_t halves = (bits & 0xffu) | (bits & 0xff00u) << 8;
      return (halves & 0x000f000fu) | (halves & 0x00f000f0u) << 4;
    } else {  // 6 bits
      const uint32_t bits = lane_bytes[0] | uint32_t{lane_bytes[1]} << 8 | uint32_t{lane_bytes[2]} << 16;
      return (bits & 0x3fu) | (bits & 0xfc0u) << 2 | (bits & 0x3f000u) << 4 | (bits & 0xfc0000u) << 6;
    }
  }
};

template <class Layout, bool kSplit>
class SketchFragments {
 public:
  __device__ explicit SketchFragments(const SketchQueries& queries) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int head = lane / 4, t = lane % 4;
#pragma unroll
    for (int step = 0; step < Layout::kSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int operand = step * 2 + half;
        const int w = operand / Layout::kBits, j = operand % Layout::kBits;
        a_[step][half * 2] = pack_bytes(queries.high[head], t, w, j);
        a_[step][half * 2 + 1] = pack_bytes(kSplit ? queries.low[head] : queries.high[head + 8], t, w, j);
      }
    }
  }

  // Sums of the integers over the dimensions whose bit is set, of eight keys: element i is key lane % 4 * 2 + i % 2 for
  // head lane / 4 + i / 2 * 8 (split: elements 2 and 3 are not set). words: this lane's of key lane / 4.
  __device__ void sums(const uint32_t (&words)[Layout::kWords], int32_t (&out)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = 0;
#pragma unroll
    for (int step = 0; step < Layout::kSteps; ++step) {
      const uint32_t word = words[step * 2 / Layout::kBits];
      const int j = step * 2 % Layout::kBits;
      mma_16x8x32(out, a_[step], word >> j & 0x01010101u, word >> (j + 1) & 0x01010101u);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (kSplit) {
        out[i] = out[i] * 256 + out[i + 2];
      } else {
        out[i] *= 256;
        out[i + 2] *= 256;
      }
    }
  }

 private:
  __device__ static uint32_t pack_bytes(const int8_t* of_head, int t, int w, int j) {
    uint32_t packed = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      packed |= static_cast<uint32_t>(static_cast<uint8_t>(of_head[Layout::dimension(t, w, j, i)])) << (8 * i);
    }
    return packed;
  }
  uint32_t a_[Layout::kSteps][4];
};

}  // namespace squeeze::cuda
